"""The test split, in models' own terms: rows that nothing which chooses has seen.

Apart from all other loading, so that nobody opens it in passing; `hpo.confirm` does, once a study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.options import ImageData, TableData, TextData
from trainers.saved import Model, PixelRows, TableRows, TextRows
from trainers.unseen import Batch


def rows(section: Mapping[str, Any], models: Sequence[Model]) -> Batch:
    """The test rows that the study of some models has set aside; none if it has set none aside.

    Args:
        section: Its ``data`` section.
        models: All of one study: of equal kind, target and classes.

    Raises:
        DataError: The data is not there any more, or cannot be read.
    """
    if models[0].kind == "table":
        from trainers.data.tables import test_rows as of_table

        numbers, target, columns = of_table(TableData.model_validate(section))
        return Batch(numbers.tolist(), TableRows(columns), target)
    if models[0].kind == "text":
        from trainers.data.text import test_rows as of_texts

        numbers, target, texts = of_texts(TextData.model_validate(section))
        return Batch(numbers.tolist(), TextRows(texts), target)
    from trainers.data.images import test_rows as of_images

    forms = {model.form for model in models}
    numbers, target, pixels = of_images(ImageData.model_validate(section), forms)
    return Batch(numbers.tolist(), PixelRows(pixels), target)
