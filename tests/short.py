"""Options of runs of the main job that are over in half a minute, and what such a run leaves."""

DISTILL = "jobs/distill.py"
QUICK = (
    "--learner.batch", 8, "--learner.cpus-per-worker", 1, "--learner.checkpoint-every", 2, "--learner.log-every", 1,
    "--figures.teacher", "None", "--figures.samples", 20, "--figures.sets", 2, "--figures.loops", 1, 2, "--figures.per-class", 1,
    "--figures.sampler.steps", 2,
)  # fmt: skip
SHORT = ("--stages", "gsim", *QUICK)
QUICK_RL = (
    "--rl.rewards", "plugin:small_reward:Brightness", "--rl.loops", 2, "--rl.last", 2, "--rl-learner.batch", 4,
    "--rl-learner.checkpoint-every", 1, "--guard.every", 1, "--guard.samples", 20, "--guard.loops", 2, "--guard.patience", 9,
)  # fmt: skip
OUTPUTS = {
    "student.safetensors", "student-gsim.safetensors", "model_index.json", "config.json", "codec", "README.md", "run.json",
    "metrics.jsonl", "tensorboard", "teacher.png", "student_before.png", "student_after.png", "grid.png", "losses.png", "loops.png",
    "frontier.png", "summary.json", "report.html",
}  # fmt: skip
