"""Custom resources, strictly: the fields that our manifests use, and no others.

The API server drops a misspelt key of a custom resource without a word, so here it is an error. Names, types and
choices are those of the definitions of prometheus-operator 0.93 (`monitoring.coreos.com/v1`), KEDA 2.20
(`keda.sh/v1alpha1`, and for the trigger's metadata its Prometheus scaler) and Gateway API 1.6, standard channel
(`gateway.networking.k8s.io/v1`). A field that a manifest needs in addition is added once it has been looked up there.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from typing_extensions import Self

# Prometheus' durations: largest unit first, each once.
_UNITS = r"((\d+)y)?((\d+)w)?((\d+)d)?((\d+)h)?((\d+)m)?((\d+)s)?((\d+)ms)?"
PrometheusDuration = Annotated[str, Field(min_length=1, pattern=rf"^(0|{_UNITS})$")]
GatewayDuration = Annotated[str, Field(pattern=r"^([0-9]{1,5}(h|m|s|ms)){1,4}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Labels = dict[str, str]
Number = Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class _Selector(_Strict):
    match_labels: Labels = Field(min_length=1)  # an empty one would select everything


# --- prometheus-operator ---


class _Relabelling(_Strict):
    action: Literal["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"] = "replace"
    source_labels: list[str] | None = None
    separator: str | None = None
    regex: str | None = None
    replacement: str | None = None
    target_label: str | None = None

    @model_validator(mode="after")
    def _has_a_target(self) -> Self:
        if self.action == "replace" and not self.target_label:
            raise ValueError("action replace needs targetLabel")
        return self


class _Endpoint(_Strict):
    port: str
    path: str = Field("/metrics", pattern="^/")
    scheme: Literal["http", "https"] = "http"
    interval: PrometheusDuration | None = None
    scrape_timeout: PrometheusDuration | None = None
    honor_labels: bool = False
    relabelings: list[_Relabelling] = []
    metric_relabelings: list[_Relabelling] = []


class _Namespaces(_Strict):
    any: bool = False
    match_names: list[str] = []


class _Monitor(_Strict):
    selector: _Selector
    namespace_selector: _Namespaces | None = None
    job_label: str | None = None
    pod_target_labels: list[str] = []
    sample_limit: Annotated[int, Field(gt=0)] | None = None


class ServiceMonitor(_Monitor):
    """Scrapes the pods behind Services, ready or not."""

    target_labels: list[str] = []
    endpoints: list[_Endpoint] = Field(min_length=1)


class PodMonitor(_Monitor):
    """Scrapes pods, ready or not."""

    pod_metrics_endpoints: list[_Endpoint] = Field(min_length=1)


class _Rule(_Strict):
    # These keys are Prometheus' own and not in camel case.
    model_config = ConfigDict(alias_generator=None)

    record: str | None = None
    alert: str | None = None
    expr: str = Field(min_length=1)
    for_: PrometheusDuration | None = Field(None, alias="for")
    keep_firing_for: PrometheusDuration | None = None
    labels: Labels = {}
    annotations: Labels = {}

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.record is None) == (self.alert is None):
            raise ValueError("a rule has one of record and alert")
        if self.record is not None and (self.for_ or self.keep_firing_for or self.annotations):
            raise ValueError("a recording rule has neither for, keep_firing_for nor annotations")
        return self


class _Group(_Strict):
    name: str
    interval: PrometheusDuration | None = None
    labels: Labels = {}
    rules: list[_Rule] = Field(min_length=1)


class PrometheusRule(_Strict):
    """Groups of rules."""

    groups: list[_Group] = Field(min_length=1)


# --- KEDA ---


class _Policy(_Strict):
    type: Literal["Pods", "Percent"]
    value: Annotated[int, Field(gt=0)]
    period_seconds: Annotated[int, Field(gt=0, le=1800)]


class _Direction(_Strict):
    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    select_policy: Literal["Max", "Min", "Disabled"] = "Max"
    policies: list[_Policy] = []


class _Behavior(_Strict):
    scale_up: _Direction | None = None
    scale_down: _Direction | None = None


class _HpaConfig(_Strict):
    name: str | None = None
    behavior: _Behavior | None = None


class _Advanced(_Strict):
    horizontal_pod_autoscaler_config: _HpaConfig | None = None
    restore_to_original_replica_count: bool = False


class _Fallback(_Strict):
    failure_threshold: Annotated[int, Field(gt=0)]
    replicas: Annotated[int, Field(ge=0)]
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"] = "static"


class _ScaleTarget(_Strict):
    name: str
    api_version: str | None = None
    kind: str | None = None


class _PrometheusQuery(_Strict):
    server_address: str = Field(pattern="^https?://")
    query: str = Field(min_length=1)
    threshold: Number  # the metadata of a trigger are strings
    activation_threshold: Number | None = None
    ignore_null_values: Literal["true", "false"] = "true"
    namespace: str | None = None
    custom_headers: str | None = None
    timeout: str | None = None


class _AuthenticationRef(_Strict):
    name: str
    kind: Literal["TriggerAuthentication", "ClusterTriggerAuthentication"] = "TriggerAuthentication"


class _Trigger(_Strict):
    type: Literal["prometheus"]
    name: str | None = None
    metric_type: Literal["AverageValue", "Value"] = "AverageValue"
    use_cached_metrics: bool = False
    metadata: _PrometheusQuery
    authentication_ref: _AuthenticationRef | None = None


class ScaledObject(_Strict):
    """Makes and feeds an HPA."""

    scale_target_ref: _ScaleTarget
    min_replica_count: Annotated[int, Field(ge=0)] = 0
    max_replica_count: Annotated[int, Field(ge=1)] = 100
    polling_interval: Annotated[int, Field(gt=0)] = 30
    cooldown_period: Annotated[int, Field(ge=0)] = 300
    fallback: _Fallback | None = None
    advanced: _Advanced | None = None
    triggers: list[_Trigger] = Field(min_length=1)


# --- Gateway API ---


class _ParentRef(_Strict):
    name: str
    namespace: str | None = None
    group: str | None = None
    kind: str | None = None
    section_name: str | None = None
    port: Port | None = None


class _PathMatch(_Strict):
    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: str = Field("/", pattern="^/")


class _Match(_Strict):
    path: _PathMatch | None = None
    method: Literal["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] | None = None


class _BackendRef(_Strict):
    name: str
    port: Port
    kind: Literal["Service"] = "Service"
    group: Literal[""] = ""
    namespace: str | None = None
    weight: Annotated[int, Field(ge=0)] = 1


class _Timeouts(_Strict):
    request: GatewayDuration | None = None
    backend_request: GatewayDuration | None = None


class _Redirect(_Strict):
    scheme: Literal["http", "https"] | None = None
    status_code: Literal[301, 302, 303, 307, 308] = 302


class _Filter(_Strict):
    type: Literal["RequestRedirect"]
    request_redirect: _Redirect


class _HTTPRouteRule(_Strict):
    name: str | None = None
    matches: list[_Match] = []
    filters: list[_Filter] = []
    backend_refs: list[_BackendRef] = []
    timeouts: _Timeouts | None = None


class HTTPRoute(_Strict):
    """Requests to hosts and paths, and where they go."""

    parent_refs: list[_ParentRef] = Field(min_length=1)
    hostnames: list[str] = []
    rules: list[_HTTPRouteRule] = Field(min_length=1)


KNOWN: Final[dict[tuple[str, str], type[BaseModel]]] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitor,
    ("monitoring.coreos.com/v1", "PodMonitor"): PodMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRule,
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObject,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HTTPRoute,
}
"""By apiVersion and kind: the model of the spec."""


def faults(object_: dict[str, Any]) -> list[str]:
    """What is wrong with a custom resource of a known kind, a line each."""
    found = [f"{key}: no such field" for key in object_ if key not in ("apiVersion", "kind", "metadata", "spec")]
    try:
        KNOWN[object_["apiVersion"], object_["kind"]].model_validate(object_.get("spec", {}))
    except ValidationError as error:
        found += [f"spec.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return found
