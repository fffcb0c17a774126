-- One row per trial: its knobs, its outcome, and each estimate with its 95 % interval. NULL: not measured.
-- Throughput, latency, energy and power are the reported ones: from repetitions where there are some, their intervals with the
-- spread between processes; `…_one_run…` is what the trial's own load gave.
CREATE VIEW at_v_trials AS
SELECT
    s.name AS study, t.study_id, t.id AS trial_id, t.role, t.number, t.state,
    t.engine, t.precision, t.pruning_ratio, t.batch_size, t.streams, t.worker_threads, t.memory_pool_mib,
    t.builder_level, t.cuda_graph, t.layout, t.conv_search, t.arena_growth,
    t.reject_reason, t.reject_stage, t.reject_message,
    t.metric,
    acc.value AS accuracy, acc.low AS accuracy_low, acc.high AS accuracy_high, acc.n AS accuracy_n,
    dr.value AS accuracy_drop, dr.low AS accuracy_drop_low, dr.high AS accuracy_drop_high,
    COALESCE(rep.value, thr.value) AS throughput_items_per_s,
    COALESCE(rep.low, thr.low) AS throughput_low_items_per_s,
    COALESCE(rep.high, thr.high) AS throughput_high_items_per_s,
    COALESCE(rep.method, thr.method) AS throughput_method,
    thr.value AS throughput_one_run_items_per_s,
    COALESCE(r50.value, p50.value) AS latency_p50_ms,
    COALESCE(r50.low, p50.low) AS latency_p50_low_ms,
    COALESCE(r50.high, p50.high) AS latency_p50_high_ms,
    COALESCE(r90.value, p90.value) AS latency_p90_ms,
    COALESCE(r95.value, p95.value) AS latency_p95_ms,
    COALESCE(r99.value, p99.value) AS latency_p99_ms,
    COALESCE(r99.low, p99.low) AS latency_p99_low_ms,
    COALESCE(r99.high, p99.high) AS latency_p99_high_ms,
    p99.value AS latency_p99_one_run_ms,
    COALESCE(re.value, e.value) AS energy_j_per_item,
    COALESCE(re.low, e.low) AS energy_low_j_per_item,
    COALESCE(re.high, e.high) AS energy_high_j_per_item,
    COALESCE(rw.value, w.value) AS power_w,
    t.peak_memory_mib, t.pool_peak_mib, t.model_bytes, t.build_s, t.measure_s,
    v.key AS variant_key, v.scheme, v.achieved_pruning, v.params, v.macs, t.engine_key,
    (SELECT COUNT(*) FROM at_repetitions r WHERE r.of_trial_id = t.id) AS n_repetitions,
    (SELECT 1 + COUNT(*) FROM at_regimes g WHERE g.study_id = t.study_id AND g.since <= t.started_at) AS regime,
    CASE WHEN f.trial_id IS NULL THEN 0 ELSE 1 END AS in_front,
    t.device, t.environment_key, t.host, t.worker_id, t.started_at, t.finished_at, t.heartbeat_at
FROM at_trials t
JOIN at_studies s ON s.id = t.study_id
LEFT JOIN at_variants v ON v.digest = t.variant_digest
LEFT JOIN at_pareto f ON f.study_id = t.study_id AND f.trial_id = t.id
LEFT JOIN at_measurements acc ON acc.trial_id = t.id AND acc.metric = 'accuracy'
LEFT JOIN at_measurements dr ON dr.trial_id = t.id AND dr.metric = 'accuracy_drop'
LEFT JOIN at_measurements thr ON thr.trial_id = t.id AND thr.metric = 'throughput_items_per_s'
LEFT JOIN at_measurements rep ON rep.trial_id = t.id AND rep.metric = 'throughput_reported'
LEFT JOIN at_measurements p50 ON p50.trial_id = t.id AND p50.metric = 'latency_p50'
LEFT JOIN at_measurements p90 ON p90.trial_id = t.id AND p90.metric = 'latency_p90'
LEFT JOIN at_measurements p95 ON p95.trial_id = t.id AND p95.metric = 'latency_p95'
LEFT JOIN at_measurements p99 ON p99.trial_id = t.id AND p99.metric = 'latency_p99'
LEFT JOIN at_measurements e ON e.trial_id = t.id AND e.metric = 'energy_j_per_item'
LEFT JOIN at_measurements w ON w.trial_id = t.id AND w.metric = 'power_w'
LEFT JOIN at_measurements r50 ON r50.trial_id = t.id AND r50.metric = 'latency_p50_reported'
LEFT JOIN at_measurements r90 ON r90.trial_id = t.id AND r90.metric = 'latency_p90_reported'
LEFT JOIN at_measurements r95 ON r95.trial_id = t.id AND r95.metric = 'latency_p95_reported'
LEFT JOIN at_measurements r99 ON r99.trial_id = t.id AND r99.metric = 'latency_p99_reported'
LEFT JOIN at_measurements re ON re.trial_id = t.id AND re.metric = 'energy_j_per_item_reported'
LEFT JOIN at_measurements rw ON rw.trial_id = t.id AND rw.metric = 'power_w_reported'
