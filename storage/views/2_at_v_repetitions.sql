-- One row per repetition: a finalist or the reference (the canary) measured again in a process of its own.
CREATE VIEW at_v_repetitions AS
SELECT
    o.study, t.study_id, r.role, r.round, o.trial_id AS of_trial_id, o.role AS of_role, o.number AS of_number,
    t.trial_id, t.number, t.state, t.regime, t.throughput_items_per_s, t.throughput_low_items_per_s,
    t.throughput_high_items_per_s, t.started_at, t.finished_at
FROM at_repetitions r
JOIN at_v_trials t ON t.trial_id = r.trial_id
JOIN at_v_trials o ON o.trial_id = r.of_trial_id
