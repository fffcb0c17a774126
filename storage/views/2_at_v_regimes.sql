-- One row per change of the machine that the canary noticed; `ratio` is the reference's throughput against the regime before.
CREATE VIEW at_v_regimes AS
SELECT s.name AS study, r.study_id, r.number AS regime, r.since, r.steady_until, r.ratio, r.reason
FROM at_regimes r
JOIN at_studies s ON s.id = r.study_id
