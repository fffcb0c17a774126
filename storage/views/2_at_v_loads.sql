-- One row per trial that was loaded since this table is there: its scenario, and what only some scenarios have.
CREATE VIEW at_v_loads AS
SELECT
    v.study, v.study_id, v.trial_id, v.role, v.number, l.scenario, l.driver, l.n_requests, l.offered_items_per_s, l.slo_ms,
    l.slo_percentile,
    w.value AS within_slo, w.low AS within_slo_low, w.high AS within_slo_high,
    g.value AS goodput_items_per_s, g.low AS goodput_low_items_per_s, g.high AS goodput_high_items_per_s,
    p.value AS peak_items_per_s,
    v.throughput_items_per_s, v.latency_p50_ms, v.latency_p90_ms, v.latency_p99_ms,
    l.queued_share, l.late_share, l.mean_batch, l.foreign_cpu_share, l.n_repeated_windows, v.started_at
FROM at_loads l
JOIN at_v_trials v ON v.trial_id = l.trial_id
LEFT JOIN at_measurements w ON w.trial_id = l.trial_id AND w.metric = 'within_slo'
LEFT JOIN at_measurements g ON g.trial_id = l.trial_id AND g.metric = 'goodput_items_per_s'
LEFT JOIN at_measurements p ON p.trial_id = l.trial_id AND p.metric = 'peak_items_per_s'
