"""Entry points for Ray jobs: `python -m jobs.adapt`, `.self_generate`, `.select_samples`, `.train_draft`,
`.evaluate_draft`.
"""
