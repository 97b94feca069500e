"""The series that Prometheus gets from this project, through Ray; docs/monitoring.md lists them."""

from ray.util.metrics import Counter, Gauge, Histogram


class StageSeries:
    """The metrics of a stage's learner: each becomes a gauge when it is first set, `reward` of RL as marval_rl_reward."""

    def __init__(self, stage: str):
        self.stage = stage
        self.gauges: dict[str, Gauge] = {}

    def set(self, metrics: dict[str, float]) -> None:
        """Set each metric, a number by name, such as held_out/fd."""
        for name, value in metrics.items():
            if name not in self.gauges:
                self.gauges[name] = Gauge(f"marval_{self.stage}_{name.replace('/', '_')}", f"{name} of the {self.stage} stage")
            self.gauges[name].set(value)


class ServingSeries:
    """The sampler's figures as Ray's metrics; Serve itself counts requests, their latency and queues."""

    def __init__(self) -> None:
        seconds = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]
        sizes = [1.0, 2, 4, 8, 16, 32, 64, 128, 256]
        self._size = Histogram("marval_serve_batch_size", "Images that shared one loop.", boundaries=sizes)
        self._loop = Histogram("marval_serve_loop_seconds", "Time of one loop of a batch.", boundaries=seconds)
        self._wait = Histogram("marval_serve_wait_seconds", "From asking to the first loop.", boundaries=seconds)
        self._image = Histogram("marval_serve_image_seconds", "From asking to the image.", boundaries=seconds)
        self._images = Counter("marval_serve_images", "Finished images.")

    def batch(self, size: int, seconds: float) -> None:
        self._size.observe(size)
        self._loop.observe(seconds)

    def began(self, waited: float) -> None:
        self._wait.observe(waited)

    def finished(self, took: float) -> None:
        self._image.observe(took)
        self._images.inc()
