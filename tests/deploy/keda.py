"""What KEDA's objects of `keda.sh/v1alpha1` may hold, as far as we use them, and how each is typed.

Written after the reference of KEDA 2.17; unlike the cluster, it takes no field that is not named here.
"""

from typing import Any, Final


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


TEXT: Final = {"type": "string", "minLength": 1}
COUNT: Final = {"type": "integer", "minimum": 0}
SECONDS: Final = {"type": "integer", "minimum": 0, "maximum": 3600}

POLICY: Final = closed(
    ("type", "value", "periodSeconds"),
    type={"enum": ["Pods", "Percent"]},
    value={"type": "integer", "minimum": 1},
    periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
)
RULES: Final = closed(
    stabilizationWindowSeconds=SECONDS,
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
    policies={"type": "array", "minItems": 1, "items": POLICY},
)
TRIGGER: Final = closed(
    ("type", "metadata"),
    type=TEXT,
    name=TEXT,
    metricType={"enum": ["AverageValue", "Value"]},
    useCachedMetrics={"type": "boolean"},
    # Of strings alone: a bare number is refused.
    metadata={"type": "object", "additionalProperties": TEXT},
    authenticationRef=closed(("name",), name=TEXT, kind={"enum": ["TriggerAuthentication"]}),
)
METADATA: Final = closed(("name",), name=TEXT, namespace=TEXT, labels={"type": "object"})

SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "ScaledObject": closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "keda.sh/v1alpha1"},
        kind={"const": "ScaledObject"},
        metadata=METADATA,
        spec=closed(
            ("scaleTargetRef", "triggers"),
            scaleTargetRef=closed(("name",), apiVersion=TEXT, kind=TEXT, name=TEXT, envSourceContainerName=TEXT),
            pollingInterval=COUNT,
            cooldownPeriod=COUNT,
            initialCooldownPeriod=COUNT,
            idleReplicaCount=COUNT,
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            fallback=closed(
                ("failureThreshold", "replicas"),
                failureThreshold=COUNT,
                replicas=COUNT,
                behavior={
                    "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"],
                },
            ),
            advanced=closed(
                restoreToOriginalReplicaCount={"type": "boolean"},
                horizontalPodAutoscalerConfig=closed(name=TEXT, behavior=closed(scaleUp=RULES, scaleDown=RULES)),
            ),
            triggers={"type": "array", "minItems": 1, "items": TRIGGER},
        ),
    ),
    "TriggerAuthentication": closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "keda.sh/v1alpha1"},
        kind={"const": "TriggerAuthentication"},
        metadata=METADATA,
        spec=closed(
            secretTargetRef={
                "type": "array",
                "minItems": 1,
                "items": closed(("parameter", "name", "key"), parameter=TEXT, name=TEXT, key=TEXT),
            }
        ),
    ),
}
