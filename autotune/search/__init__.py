"""The search by itself: a sampler for Optuna that knows what a trial will cost. It knows nothing of engines and studies."""
