"""Checks that a PromQL expression uses only metrics, labels and values that exist."""

from collections.abc import Iterable, Mapping

import promql_parser as promql
from prometheus_client.metrics_core import Metric

from router.policy.verdict import Kind, Outcome

# Prometheus adds these to each sample; `namespace` comes from its operator.
OF_TARGETS = frozenset({"namespace", "job", "instance"})
# The values of our labels with a short list of values.
VALUES = {"verdict": {*Outcome, *Kind}, "cause": set(Kind)}


class Wrong(Exception):
    """An expression that uses something that does not exist."""


def exported(families: Iterable[Metric]) -> dict[str, frozenset[str]]:
    """Return the labels of all samples of a scrape by the samples' names, with `up`, which Prometheus adds."""
    labels: dict[str, frozenset[str]] = {"up": OF_TARGETS}
    for family in families:
        for sample in family.samples:
            labels[sample.name] = labels.get(sample.name, OF_TARGETS) | sample.labels.keys()
    return labels


def labels_of(expression: str, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the labels of an expression's result. Raises Wrong, or ValueError if it is not PromQL."""
    return _labels(promql.parse(expression), known)


def _labels(node: promql.Expr, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    match node:
        case promql.VectorSelector() | promql.MatrixSelector():
            return _selected(node if isinstance(node, promql.VectorSelector) else node.vector_selector, known)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(node.expr, known)
        case promql.NumberLiteral() | promql.StringLiteral():
            return frozenset()
        case promql.Call():
            of_arguments = frozenset[str]().union(*(_labels(argument, known) for argument in node.args))
            return of_arguments - {"le"} if node.func.name == "histogram_quantile" else of_arguments
        case promql.AggregateExpr():
            return _grouped(node, _labels(node.expr, known))
        case promql.BinaryExpr():
            return _joined(node, _labels(node.lhs, known), _labels(node.rhs, known))
    raise Wrong(f"{type(node).__name__} is not looked into: {node.prettify()}")


def _selected(selector: promql.VectorSelector, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    labels = known.get(selector.name or "")
    if labels is None:
        raise Wrong(f"no metric {selector.name}")
    for matcher in selector.matchers.matchers:
        if matcher.name not in labels:
            raise Wrong(f"{selector.name} has no label {matcher.name}")
        asked = set(matcher.value.split("|"))
        if not asked <= VALUES.get(matcher.name, asked):
            raise Wrong(f"{matcher.name} is never {matcher.value}")
    return labels


def _grouped(node: promql.AggregateExpr, labels: frozenset[str]) -> frozenset[str]:
    if node.modifier is None:
        return labels if str(node.op) in {"topk", "bottomk"} else frozenset()
    return _named(node.modifier, labels, node)


def _joined(node: promql.BinaryExpr, left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
    if node.modifier is not None and node.modifier.matching is not None:
        _named(node.modifier.matching, left & right, node)
    elif left != right and left and right and str(node.op) != "or":
        raise Wrong(f"sides with different labels: {node.prettify()}")
    return left | right


def _named(
    modifier: promql.LabelModifier | promql.AggModifier, labels: frozenset[str], node: promql.Expr
) -> frozenset[str]:
    if modifier.type not in (promql.AggModifierType.By, promql.LabelModifierType.Include):
        raise Wrong(f"only `by` and `on` are looked into: {node.prettify()}")
    missing = set(modifier.labels) - labels
    if missing:
        raise Wrong(f"no label {missing}: {node.prettify()}")
    return frozenset(modifier.labels)
