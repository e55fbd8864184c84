"""What /metrics reports, in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from training.serving.worker import EngineWorker


class ServerMetrics:
    """Counters of a server, and gauges that read its engine.

    Args:
      worker: whose engine is read.
    """

    def __init__(self, worker: EngineWorker):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "jaxmoe_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.tokens = Counter("jaxmoe_tokens", "Tokens by kind.", ["kind"], registry=self.registry)
        told = "From arrival to the last token."
        self.seconds = Histogram("jaxmoe_request_seconds", told, ["route"], registry=self.registry)
        statistics = {
            "jaxmoe_pending_requests": ("Requests that have not ended.", lambda: worker.pending),
            "jaxmoe_engine_steps": ("Decoding steps.", lambda: worker.engine.statistics.steps),
            "jaxmoe_wasted_slots": ("Slots run empty.", lambda: worker.engine.statistics.wasted),
            "jaxmoe_reused_tokens": (
                "Prompt tokens not read again.",
                lambda: worker.engine.statistics.reused,
            ),
            "jaxmoe_engine_restarts": ("Engines made anew after a fault.", lambda: worker.restarts),
        }
        for name, (text, value) in statistics.items():
            Gauge(name, text, registry=self.registry).set_function(value)
