-- The members of each study's front; `front_since` is when the trial joined it.
CREATE VIEW at_v_front AS
SELECT p.since AS front_since, v.*
FROM at_pareto p
JOIN at_v_trials v ON v.trial_id = p.trial_id
