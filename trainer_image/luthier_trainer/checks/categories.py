"""Whether the categories that rows name are those that were asked for, and none of them drowns the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from luthier_trainer.checks.tally import rows_text
from luthier_trainer.config import CategoriesConfig
from luthier_trainer.findings import Finding, about_the_set


def category_findings(
    config: CategoriesConfig, counts: Mapping[str | None, Mapping[str, int]], *, kept: int
) -> list[Finding]:
    """Compare counts by category and split with what is asked for. Names that only rows have are not repeated."""
    totals = {category: sum(by_split.values()) for category, by_split in counts.items()}
    return [*_missing(config, totals), *_unnamed(totals), *_imbalance(config, totals, kept)]


def _missing(config: CategoriesConfig, totals: Mapping[str | None, int]) -> Iterator[Finding]:
    short = [c for c in config.required if totals.get(c.name, 0) < c.min_rows]
    if short:
        listed = ", ".join(f"{c.name} ({totals.get(c.name, 0)} of {c.min_rows})" for c in short[:5])
        yield about_the_set(
            code="RequiredCategories",
            level="Error",
            message=f"required categories have too few rows: {listed}",
            hint="add rows of these categories, or lower minRows in dataset.checks.categories.required",
        )


def _unnamed(totals: Mapping[str | None, int]) -> Iterator[Finding]:
    if None in totals:
        yield about_the_set(
            code="RowsWithoutCategory",
            message=f"{rows_text(totals[None])} without a category",
            hint="name the category of each row under the key category",
        )


def _imbalance(config: CategoriesConfig, totals: Mapping[str | None, int], kept: int) -> Iterator[Finding]:
    largest = max((count for category, count in totals.items() if category is not None), default=0)
    if kept and 100 * largest > config.max_percent * kept:
        yield about_the_set(
            code="CategoryImbalance",
            message=f"one category has {100 * largest / kept:.0f} % of the rows; more than {config.max_percent} % "
            "drown the others",
            hint="report.json counts each category: add rows of the rare ones, or take some of the frequent one out",
        )
