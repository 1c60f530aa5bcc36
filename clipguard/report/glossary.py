"""The words of a report, in a sentence each."""

from __future__ import annotations

from clipguard.report.blocks import Fact, Facts

GLOSSARY = Facts(
    (
        Fact("CA", "Clean accuracy: share of clean images read as their true class."),
        Fact(
            "ASR",
            "Attack success rate: share of triggered images that are read as the target class. "
            "Images of the target class are left out.",
        ),
        Fact("PA", "Poisoned accuracy: share of triggered images read as their true class."),
        Fact(
            "Null band",
            "What the whole search finds on models known to be clean. Clean models have weak "
            "triggers too, so no number is read without it.",
        ),
        Fact(
            "Statistic",
            "The number of the worst target in a trigger family. It is held against the null band.",
        ),
        Fact(
            "Excess",
            "Distance of the statistic from the mean of the null band, in its standard deviations "
            "(σ).",
        ),
        Fact(
            "Score",
            "Between 0 and 1: the chance of a backdoor, fitted on planted and honest models of the "
            "lab. Without a reference a high one fails a model only where its p-value is small.",
        ),
        Fact(
            "p-value",
            "Share of known-clean models at least as unusual, this model counted in. A band of n "
            "models cannot show less than 1/(n+1).",
        ),
        Fact(
            "V",
            "With a reference: how much more a class of this model yields to triggers than that of "
            "the reference, in log odds, beyond what classes drawn at random show.",
        ),
        Fact(
            "Gap",
            "With a reference: share of images by which the trigger found on this model beats both "
            "itself on the reference and the one found there.",
        ),
        Fact("Interval", "Numbers in brackets are the 95 % interval of a share, in percent."),
        Fact(
            "Pass",
            "Every line of the policy was met. The tests listed as tested found nothing. That does "
            "not mean that there is nothing.",
        ),
    )
)
