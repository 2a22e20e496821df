"""The contents of a scrape, read by the official parser."""

import re

from prometheus_client.parser import text_string_to_metric_families

OURS = re.compile(r"stormbreak_\w+")


def read(text):
    """The samples of stormbreak in a scrape: values by name and labels."""
    text = text.decode() if isinstance(text, bytes) else text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if OURS.fullmatch(sample.name) and not sample.name.endswith("_created")
    }


def value(samples, name, **labels):
    """The sum of the samples of `name` that have these labels."""
    wanted = set(labels.items())
    return sum(
        amount for (named, has), amount in samples.items() if named == name and wanted <= has
    )


def by(samples, name, label):
    """Sums of the samples of `name` by the value of `label`."""
    found = {}
    for (named, has), amount in samples.items():
        if named == name:
            shown = dict(has)[label]
            found[shown] = found.get(shown, 0) + amount
    return found


def labels_of(samples):
    """The label names of each metric."""
    found = {}
    for name, has in samples:
        found.setdefault(name, set()).update(label for label, _ in has)
    return found
