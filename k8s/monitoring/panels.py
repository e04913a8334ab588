"""What the dashboard asks: rows of panels, each one question. `dashboard.py` draws them.

A panel's text says what a bad answer looks like. Expressions name the dashboard's variables `$namespace` and `$job`,
whose "All" also matches services that have no namespace, as with a plain scrape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

OURS: Final = 'namespace=~"$namespace",job=~"$job"'
PREDICTIONS: Final = f'{OURS},endpoint=~"predict.*"'
HPA: Final = 'namespace=~"$namespace",horizontalpodautoscaler=~"(keda-hpa-)?pgn-serve"'
CONTAINERS: Final = 'namespace=~"$namespace",pod=~"pgn-serve-.*",container=~"gateway|torchserve|sync|sync-watch"'

Query = tuple[str, str]
"""An expression, and the legend of its lines."""


@dataclass(frozen=True)
class Panel:
    """One question.

    Attributes:
        title: The question's subject.
        queries: What is drawn.
        unit: Grafana's name of the unit.
        text: What it tells, and what bad looks like.
        limit: Where bad begins; drawn as a line.
        good_from: Where good begins, for numbers of which more is better.
        is_stacked: Lines add up to something.
    """

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    text: str = ""
    limit: float | None = None
    good_from: float | None = None
    is_stacked: bool = False


def quantile(share: float, histogram: str, labels: str, by: str = "") -> str:
    """A quantile of a histogram over the time that a pixel stands for."""
    by = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({by}) (rate({histogram}_bucket{{{labels}}}[$__rate_interval])))"


def mean(histogram: str, labels: str, by: str) -> str:
    """A histogram's mean, by a label."""
    total, count = (
        f"sum by ({by}) (rate({histogram}_{part}{{{labels}}}[$__rate_interval]))" for part in ("sum", "count")
    )
    return f"{total} / {count}"


def rate(counter: str, by: str, labels: str = OURS) -> str:
    """A counter's growth a second, by a label."""
    return f"sum by ({by}) (rate({counter}{{{labels}}}[$__rate_interval]))"


def budget_left(bad: str, objective: float) -> str:
    """What is left of 30 days' budget; 1 is all of it, below 0 the objective is missed."""
    return f"1 - ({bad}) / {1 - objective:.3g}"


_FAILED_30D: Final = (
    f'sum(increase(pgn_request_seconds_count{{{PREDICTIONS},outcome="failed"}}[30d])) / '
    f'sum(increase(pgn_request_seconds_count{{{PREDICTIONS},outcome=~"ok|failed"}}[30d]))'
)
_SLOW_30D: Final = (
    f'1 - sum(increase(pgn_request_seconds_bucket{{{PREDICTIONS},outcome="ok",le="0.5"}}[30d])) / '
    f'sum(increase(pgn_request_seconds_count{{{PREDICTIONS},outcome="ok"}}[30d]))'
)

AT_A_GLANCE: Final = (
    Panel(
        "Replicas ready",
        [(f"sum(pgn:replicas_ready:sum{{{OURS}}})", "")],
        text="0: no prediction is answered.",
        good_from=1,
    ),
    Panel(
        "Predictions",
        [(f"sum(rate(pgn_request_seconds_count{{{PREDICTIONS}}}[$__rate_interval]))", "")],
        "reqps",
        "Good and bad.",
    ),
    Panel(
        "Failed",
        [(f"max(pgn:predictions_failed:ratio_rate5m{{{OURS}}})", "")],
        "percentunit",
        "5xx; objective 0.1 %.",
        0.001,
    ),
    Panel("p99", [(f"max(pgn:prediction_seconds:p99_rate5m{{{OURS}}})", "")], "s", "Of good answers.", 2),
    Panel(
        "In flight",
        [(f"max(pgn:in_flight:ratio_avg5m{{{OURS}}})", "")],
        "percentunit",
        "Of what is accepted at once; at 100 % requests are refused.",
        0.75,
    ),
    Panel(
        "Error budget left",
        [(budget_left(_FAILED_30D, 0.999), "")],
        "percentunit",
        "Of 30 days at 99.9 % answered. Prometheus has to keep 30 days for it.",
        good_from=0.25,
    ),
    Panel(
        "Latency budget left",
        [(budget_left(_SLOW_30D, 0.99), "")],
        "percentunit",
        "Of 30 days with 99 % of the answers within 0.5 s.",
        good_from=0.25,
    ),
    Panel(
        "Alerts",
        [('count(ALERTS{namespace=~"$namespace",alertname=~"Pgn.*",alertstate="firing"}) or vector(0)', "")],
        text="Firing now; docs/runbooks has a page for each.",
        limit=1,
    ),
)

ROWS: Final[Sequence[tuple[str, Sequence[Panel]]]] = (
    (
        "Traffic",
        (
            Panel(
                "Predictions by data set",
                [(rate("pgn_requests_total", "dataset", PREDICTIONS), "{{dataset}}")],
                "reqps",
                'Without a name: refused before its data set was known. "several": asked for more than one.',
                is_stacked=True,
            ),
            Panel(
                "Images by key",
                [(rate("pgn_usage_images_total", "key"), "{{key}}")],
                "ops",
                "Answered images. One client that outgrows the others shows here.",
                is_stacked=True,
            ),
            Panel(
                "Requests by end point",
                [(rate("pgn_request_seconds_count", "endpoint"), "{{endpoint}}")],
                "reqps",
                "Probes and scrapes included.",
            ),
            Panel(
                "Refused for their rate (429)",
                [(rate("pgn_throttled_requests_total", "key"), "{{key}}")],
                "reqps",
                "Clients that ask faster than their key may.",
            ),
        ),
    ),
    (
        "Errors",
        (
            Panel(
                "By code",
                [(rate("pgn_errors_total", "code"), "{{code}}")],
                "reqps",
                "service.* is ours; most others are the clients'. docs/http.md has them all.",
                is_stacked=True,
            ),
            Panel(
                "Failed predictions, of all",
                [
                    (f"pgn:predictions_failed:ratio_rate5m{{{OURS}}}", "5 minutes"),
                    (f"pgn:predictions_failed:ratio_rate1h{{{OURS}}}", "1 hour"),
                    (f"pgn:predictions_failed:ratio_rate6h{{{OURS}}}", "6 hours"),
                    (f"pgn:predictions_failed:ratio_rate3d{{{OURS}}}", "3 days"),
                ],
                "percentunit",
                "At 1.44 % for an hour, or 0.6 % for six, somebody is paged.",
                0.0144,
            ),
            Panel(
                "Slow answers, of all",
                [
                    (f"pgn:predictions_slow:ratio_rate5m{{{OURS}}}", "5 minutes"),
                    (f"pgn:predictions_slow:ratio_rate1h{{{OURS}}}", "1 hour"),
                    (f"pgn:predictions_slow:ratio_rate6h{{{OURS}}}", "6 hours"),
                    (f"pgn:predictions_slow:ratio_rate3d{{{OURS}}}", "3 days"),
                ],
                "percentunit",
                "Longer than 0.5 s. At 14.4 % for an hour, or 6 % for six, somebody is paged.",
                0.144,
            ),
            Panel(
                "Asked again",
                [
                    (rate("pgn_upstream_retries_total", "stage"), "{{stage}}: second attempts"),
                    (rate("pgn_lost_replies_total", "stage"), "{{stage}}: lost replies"),
                ],
                "ops",
                "A steady rate is a worker that dies again and again.",
            ),
        ),
    ),
    (
        "Latency by stage",
        (
            Panel(
                "Good predictions",
                [
                    (quantile(share, "pgn_request_seconds", f'{PREDICTIONS},outcome="ok"'), f"p{share * 100:.0f}")
                    for share in (0.5, 0.95, 0.99)
                ],
                "s",
                "From a request's first byte to its answer; objective: 99 % within 0.5 s.",
                0.5,
            ),
            Panel(
                "A stage's answer, p99",
                [(quantile(0.99, "pgn_stage_seconds", OURS, "stage"), "{{stage}}")],
                "s",
                "As the gateway sees it: queue, batch, second attempts.",
            ),
            Panel(
                "Where the time goes, mean",
                [
                    (
                        f"sum(rate(pgn_decode_seconds_sum{{{OURS}}}[$__rate_interval]))"
                        f" / sum(rate(pgn_decode_seconds_count{{{OURS}}}[$__rate_interval]))",
                        "decode",
                    ),
                    (mean("pgn_stage_queue_seconds", OURS, "stage"), "{{stage}}: queue"),
                    (mean("pgn_stage_batch_seconds", OURS, "stage"), "{{stage}}: batch"),
                ],
                "s",
                "The queue grows with the load, a batch with the hardware.",
                is_stacked=True,
            ),
            Panel(
                "Queue of a stage, p99",
                [(quantile(0.99, "pgn_stage_queue_seconds", OURS, "stage"), "{{stage}}")],
                "s",
                "From sending to the start of its batch.",
            ),
        ),
    ),
    (
        "Batches",
        (
            Panel(
                "Rows in a batch, mean",
                [(mean("pgn_stage_batch_rows", OURS, "stage"), "{{stage}}")],
                text="16 at most: then the stage is busy all the time.",
                limit=16,
            ),
            Panel("Batches", [(rate("pgn_stage_batch_rows_count", "stage"), "{{stage}}")], "ops"),
            Panel(
                "Work on a batch, p50 and p99",
                [
                    (quantile(share, "pgn_stage_batch_seconds", OURS, "stage"), f"{{{{stage}}}} p{share * 100:.0f}")
                    for share in (0.5, 0.99)
                ],
                "s",
            ),
            Panel(
                "Rows by outcome",
                [(rate("pgn_stage_rows_total", "stage, asked, outcome"), "{{stage}} {{asked}}: {{outcome}}")],
                "ops",
            ),
        ),
    ),
    (
        "Bank and store",
        (
            Panel(
                "Versions",
                [(f"max by (stage, state) (pgn_bank_versions{{{OURS}}})", "{{stage}}: {{state}}")],
                text="Refused ones do not verify.",
            ),
            Panel(
                "Data sets",
                [(f"max by (state) (pgn_datasets{{{OURS}}})", "{{state}}")],
                text="Unavailable: no version answers.",
            ),
            Panel(
                "Memory of the bank",
                [(f"max by (stage, tier) (pgn_bank_bytes{{{OURS}}})", "{{stage}}: {{tier}}")],
                "bytes",
                "Of one replica: on its GPU, or mapped from its store.",
            ),
            Panel("Loads", [(rate("pgn_bank_loads_total", "stage, outcome"), "{{stage}}: {{outcome}}")], "ops"),
            Panel(
                "Index revision",
                [
                    (f"max by (instance) (pgn_index_revision{{{OURS}}})", "{{instance}}: gateway"),
                    (f"min by (instance, stage) (pgn_stage_index_revision{{{OURS}}})", "{{instance}}: {{stage}}"),
                    (f"max by (which) (pgn_sync_revision{{{OURS}}})", "bucket: {{which}}"),
                ],
                text="All lines are one, apart from the moment of a change.",
            ),
            Panel(
                "Age of the sync",
                [(f"pgn_sync_age_seconds{{{OURS}}}", "{{instance}}")],
                "s",
                "Since the folder last said all that the bucket says. Only with a bucket.",
                900,
            ),
            Panel(
                "Sync: failing, missing",
                [
                    (f"max by (instance) (pgn_sync_failing{{{OURS}}})", "{{instance}}: failing"),
                    (f"max by (instance) (pgn_sync_missing_versions{{{OURS}}})", "{{instance}}: versions missing"),
                ],
            ),
            Panel(
                "Changes",
                [
                    (
                        f"sum by (act, outcome) (increase(pgn_changes_total{{{OURS}}}[$__rate_interval]))",
                        "{{act}}: {{outcome}}",
                    )
                ],
                text="Uploads, rollbacks and removals over HTTP.",
            ),
        ),
    ),
    (
        "Drift",
        (
            Panel(
                "Drift over its noise",
                [
                    (
                        f"max by (dataset) (pgn_prompt_drift{{{OURS}}} / pgn_prompt_drift_noise{{{OURS}}}"
                        f" and pgn_prompt_drift_images{{{OURS}}} > 100)",
                        "{{dataset}}",
                    )
                ],
                text="Above 2 for ten minutes: the images do not look like those of training (docs/drift.md).",
                limit=2,
            ),
            Panel(
                "Images that it rests on", [(f"max by (dataset) (pgn_prompt_drift_images{{{OURS}}})", "{{dataset}}")]
            ),
        ),
    ),
    (
        "TorchServe and its JVM",
        (
            Panel(
                "Faults",
                [(f"max by (instance, code) (pgn_fault{{{OURS}}}) == 1", "{{instance}}: {{code}}")],
                text="What the gateway finds wrong, while it lasts; docs/operations.md has the codes.",
            ),
            Panel(
                "Threads",
                [(f"pgn_torchserve_threads{{{OURS}}}", "{{instance}}")],
                text="Some 40, and flat. A slope is a leak.",
            ),
            Panel(
                "Memory",
                [(f"pgn_torchserve_rss_bytes{{{OURS}}}", "{{instance}}")],
                "bytes",
                "Grows into its heap (-Xmx) and stays.",
            ),
            Panel(
                "Restarts",
                [
                    (f"increase(pgn_torchserve_restarts_total{{{OURS}}}[1h])", "{{instance}}: TorchServe"),
                    (
                        f"increase(kube_pod_container_status_restarts_total{{{CONTAINERS}}}[1h])"
                        f" or increase(kube_pod_init_container_status_restarts_total{{{CONTAINERS}}}[1h])",
                        "{{pod}}: {{container}}",
                    ),
                ],
                text="Within the hour before.",
            ),
            Panel(
                "TorchServe's own queue, mean",
                [
                    (
                        f"sum by (model_name) (rate(ts_queue_latency_microseconds{{{OURS}}}[$__rate_interval]))"
                        f" / sum by (model_name) (rate(ts_inference_requests_total{{{OURS}}}[$__rate_interval])) / 1e6",
                        "{{model_name}}",
                    )
                ],
                "s",
            ),
            Panel(
                "Management answers",
                [(f"pgn_torchserve_up{{{OURS}}}", "{{instance}}")],
                text="0: dead, hung, or starting.",
            ),
        ),
    ),
    (
        "GPU (NVIDIA's DCGM exporter)",
        tuple(
            # Its labels about the pod are renamed where Prometheus does not honour a target's own.
            Panel(
                title,
                [(f'{name}{{pod=~"pgn-serve-.*"}} or {name}{{exported_pod=~"pgn-serve-.*"}}', "{{Hostname}} {{gpu}}")],
                unit,
                text,
            )
            for title, name, unit, text in (
                (
                    "Utilisation",
                    "DCGM_FI_DEV_GPU_UTIL",
                    "percent",
                    "Any kernel running; high under load. 0 under load: it computes on the CPU.",
                ),
                ("Memory used", "DCGM_FI_DEV_FB_USED", "decmbytes", "The ViT, the bundles and a batch."),
                ("Power", "DCGM_FI_DEV_POWER_USAGE", "watt", ""),
                ("Temperature", "DCGM_FI_DEV_GPU_TEMP", "celsius", ""),
                (
                    "Last Xid error",
                    "DCGM_FI_DEV_XID_ERRORS",
                    "short",
                    "Not 0: NVIDIA's table of Xid errors says what has happened.",
                ),
            )
        ),
    ),
    (
        "Autoscaling",
        (
            Panel(
                "In flight, a replica",
                [
                    (f"avg(avg_over_time(pgn_in_flight{{{OURS}}}[2m]))", "mean of all: what is scaled on"),
                    (f"max(avg_over_time(pgn_in_flight{{{OURS}}}[2m]))", "the busiest"),
                    (f"max(pgn_in_flight_limit{{{OURS}}})", "limit"),
                ],
                text="The line is the target of the HPA and of KEDA.",
                limit=16,
            ),
            Panel(
                "Replicas",
                [
                    (f"sum(pgn_ready{{{OURS}}})", "ready"),
                    (f"max(kube_horizontalpodautoscaler_status_current_replicas{{{HPA}}})", "there"),
                    (f"max(kube_horizontalpodautoscaler_status_desired_replicas{{{HPA}}})", "wanted"),
                    (f"max(kube_horizontalpodautoscaler_spec_max_replicas{{{HPA}}})", "at most"),
                ],
                text="Wanted above there for long: no node has room. Wanted at most: the maximum is too low.",
            ),
            Panel(
                "CPU throttled",
                [
                    (
                        rate("container_cpu_cfs_throttled_periods_total", "pod, container", CONTAINERS)
                        + " / "
                        + rate("container_cpu_cfs_periods_total", "pod, container", CONTAINERS),
                        "{{pod}}: {{container}}",
                    )
                ],
                "percentunit",
                "Slices of time in which a container had used up its CPU limit.",
            ),
            Panel(
                "Memory of the containers",
                [(f"container_memory_working_set_bytes{{{CONTAINERS}}}", "{{pod}}: {{container}}")],
                "bytes",
            ),
        ),
    ),
    (
        "Training",
        (
            Panel(
                "Steps done, of all",
                [("pgn_training_step / pgn_training_planned_steps", "{{instance}}")],
                "percentunit",
            ),
            Panel(
                "Since the last step",
                [("time() - pgn_training_last_progress_timestamp_seconds", "{{instance}}")],
                "s",
                "Above 15 minutes it stands still.",
                900,
            ),
            Panel("Loss", [("pgn_training_loss", "{{instance}}: {{split}}")]),
            Panel("Images a second", [("pgn_training_images_per_second", "{{instance}}")]),
        ),
    ),
)
CLOSED: Final = ("GPU (NVIDIA's DCGM exporter)", "Training")
"""Rows that ask nothing until they are opened: not everybody has these."""
