"""What TensorBoard shows beside the curves: a layout of charts, a text tab, and HParams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams import plugin_data_pb2

TARGET = "acc/image_cls_acc"
CHARTS = {  # of the Custom Scalars tab: title → tags
    "accuracy of source and target": (TARGET, "selection/labelled_image_cls_acc"),
    "accuracy of the domain classifier": ("acc/domain_cls_acc",),
    "losses of classes and of domains": ("loss/image_cls_loss", "loss/domain_cls_loss"),
    "λ": ("hyperparameter/grl_lambda",),
    "learning rate": ("hyperparameter/learning_rate",),
}

PICKS = "what picks the epoch"
COMPARED = {"method", "epoch", "batch_size", "init_learning_rate", "grl_lambda"}


def record_dashboard(run: str, settings: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """Writes layout, texts and hyperparameters with the summary writer that is in use.

    Args:
        run: its name in the HParams tab.
        settings: of the run. Runs are compared by `select_by` beside the target accuracy.
        texts: title → text, for the text tab.
    """
    criterion = settings["select_by"]
    charts = [
        layout_pb2.Chart(
            title=title,
            multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag}$" for tag in tags]),
        )
        for title, tags in {**CHARTS, PICKS: (f"selection/{criterion}",)}.items()
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="domain adaptation",
                                                             chart=charts)])  # fmt: skip
    kind = tf.compat.v1.SummaryMetadata.FromString(
        custom_scalar.create_summary_metadata().SerializeToString()
    )
    tf.summary.write(
        custom_scalar.CONFIG_SUMMARY_TAG, tf.constant(layout.SerializeToString()), 0, kind
    )
    values = {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in settings.items()
    }
    lines = [f"| {key} | {value} |" for key, value in values.items()]
    table = "\n".join(["| setting | value |", "| --- | --- |", *lines])
    for title, text in {**texts, "settings": table}.items():
        tf.summary.text(title, text.encode(errors="replace"), 0)  # names need not be UTF-8
    metrics = [
        hparams.Metric(TARGET, group="validation", display_name="target accuracy"),
        hparams.Metric(f"selection/{criterion}", display_name=criterion),
    ]
    summary = hparams.hparams_config_pb([hparams.HParam(name) for name in values], metrics)
    plugin = summary.value[0].metadata.plugin_data
    data = plugin_data_pb2.HParamsPluginData.FromString(plugin.content)
    for info in data.experiment.hparam_infos:  # the tab shows five at first, those that differ
        info.differs = info.name in COMPARED
    plugin.content = data.SerializeToString()
    tf.summary.experimental.write_raw_pb(summary.SerializeToString(), 0)
    hparams.hparams(values, trial_id=run)
