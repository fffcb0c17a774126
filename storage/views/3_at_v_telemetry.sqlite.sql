-- One row per sample: `t_s` is seconds since the trial's load began. A metric that could not be read has one row, which says why.
CREATE VIEW at_v_telemetry AS
SELECT
    s.name AS study, t.study_id, t.id AS trial_id, t.role, t.number, t.started_at,
    m.metric, m.unit, p.value AS t_s, json_extract(m.samples, '$[' || p.key || ']') AS value, m.absent
FROM at_telemetry m
JOIN at_trials t ON t.id = m.trial_id
JOIN at_studies s ON s.id = t.study_id
LEFT JOIN json_each(m.t_s) p ON 1
