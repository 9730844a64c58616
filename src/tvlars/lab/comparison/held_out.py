"""Sentence about the images used for choices and the images used for results."""

from __future__ import annotations

NOTHING_HELD_OUT = (
    "Nothing was held out: runs were tested on the test set after every epoch. Choices made by looking at these test "
    "numbers, such as a learning rate, an epoch or an optimizer, make them optimistic."
)

_SHARE = (
    'The "test random share accuracy" is measured on a random {:g} % of the test set, drawn anew after every epoch, as '
    "in published comparisons: it is noisier than the accuracy on the whole test set, and the best of many is too high."
)


def held_out(
    validation_images: int,
    *,
    test: bool = True,
    keep_best: bool = False,
    of_task: bool = False,
    test_share: float | None = None,
    every: int = 1,
) -> str:
    """Return the sentence for runs with this number of ``validation_images``.

    Args:
        validation_images: number of validation images; 0 if none were held out.
        test: True if the test set was read at the end.
        keep_best: True if results are of the best epoch by validation.
        of_task: True for runs of a user's task, whose data are samples.
        test_share: share of the test set that was also tested after every epoch; None if none was.
        every: epochs between two evaluations, ``validate_every``.
    """
    share = "" if test_share is None else f" {_SHARE.format(100 * test_share)}"
    if not validation_images:
        return NOTHING_HELD_OUT.replace("every epoch", "every epoch" if every == 1 else f"every {every} epochs") + share
    images = f"{validation_images:,} {'sample' if of_task else 'image'}{'s' * (validation_images != 1)}"
    weights = ", by the weights of each run's best epoch on these" if keep_best else ""
    if not test:
        results = "Results" if of_task else "Accuracies"
        return f"{results} are of {images} held out for validation{weights}; the test set was not read."
    once = "read once" if test_share is None else "read whole once"
    of_these = "were held out for validation, and curves are of these"
    return f"{images} {of_these}. The test set was {once}, at the end{weights}.{share}"
