-- One row per study: how far it is, and the best throughput among the members of its front. Counts are of search trials.
CREATE VIEW at_v_studies AS
SELECT
    s.id AS study_id, s.name AS study, s.state, s.target_trials, s.created_at, env.device, s.environment_key,
    COALESCE(c.n_complete, 0) AS n_complete,
    COALESCE(c.n_rejected, 0) AS n_rejected,
    COALESCE(c.n_crashed, 0) AS n_crashed,
    COALESCE(c.n_running, 0) AS n_running,
    COALESCE(f.n_front, 0) AS n_front,
    f.best_throughput_items_per_s,
    c.first_started_at, c.last_finished_at
FROM at_studies s
JOIN at_environments env ON env.key = s.environment_key
LEFT JOIN (
    SELECT
        study_id,
        SUM(CASE WHEN state = 'complete' THEN 1 ELSE 0 END) AS n_complete,
        SUM(CASE WHEN state = 'rejected' THEN 1 ELSE 0 END) AS n_rejected,
        SUM(CASE WHEN state = 'crashed' THEN 1 ELSE 0 END) AS n_crashed,
        SUM(CASE WHEN state = 'running' THEN 1 ELSE 0 END) AS n_running,
        MIN(started_at) AS first_started_at,
        MAX(finished_at) AS last_finished_at
    FROM at_trials
    WHERE role = 'search'
    GROUP BY study_id
) c ON c.study_id = s.id
LEFT JOIN (
    SELECT p.study_id, COUNT(*) AS n_front, MAX(v.throughput_items_per_s) AS best_throughput_items_per_s
    FROM at_pareto p
    LEFT JOIN at_v_trials v ON v.trial_id = p.trial_id
    GROUP BY p.study_id
) f ON f.study_id = s.id
