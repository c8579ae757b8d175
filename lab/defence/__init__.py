"""Training of a protection profile: erase, perturbation network, budgets, and what a training run keeps."""
