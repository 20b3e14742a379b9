"""Which train rows go where, decided by their content alone: never by their order or by the machine."""

import math

from othink_mr1.data.index import Index


def draw_validation(index: Index, fraction: float, seed: int) -> None:
    """Sends a share of the train rows to validation.

    At least one row, and at least one stays in train. Rows with the same picture go together, so that validation holds
    no picture that was trained on.
    """
    index.ask(
        """
        WITH pictures AS (
            SELECT pixels, count(*) AS rows, rank('validation', ?, pixels) AS draw
            FROM rows WHERE place = 'train' GROUP BY pixels
        ), ordered AS (
            SELECT pixels, sum(rows) OVER (ORDER BY draw) - rows AS before, row_number() OVER (ORDER BY draw) AS nth
            FROM pictures
        )
        UPDATE rows SET place = 'validation' WHERE place = 'train' AND pixels IN (
            SELECT pixels FROM ordered WHERE before < ? AND nth < (SELECT count(*) FROM pictures)
        )
        """,
        seed,
        max(1, math.floor(fraction * index.count("train") + 0.5)),
    )


def few_shot(index: Index, samples: int | None, seed: int) -> None:
    """Leaves `samples` rows in train (all, if None or more than there are), each answer by its share, give or take one.

    A larger number contains the smaller one: the rows of each answer are put in a random order and spread evenly over
    0 to 1, from a random start, and the subset is everything below a line that rises with `samples`. The start gives
    answers that are too rare to be due a row the chance that is due to them.
    """
    if samples is None:
        return
    index.ask(
        """
        WITH ranked AS (
            SELECT number, answer, rank('few-shot', ?, sample_id) AS draw FROM rows WHERE place = 'train'
        ), spread AS (
            SELECT number, draw,
                (row_number() OVER (PARTITION BY answer ORDER BY draw, number) - share('few-shot', ?, answer))
                    / count(*) OVER (PARTITION BY answer) AS line
            FROM ranked
        )
        UPDATE rows SET place = NULL WHERE place = 'train'
            AND number NOT IN (SELECT number FROM spread ORDER BY line, draw, number LIMIT ?)
        """,
        seed,
        seed,
        samples,
    )
