from convaudit.stages.verdicts.priority import READING_ORDER, rank


def test_what_explains_the_rest_is_read_first():
    codes = [
        "predictions/logit-not-finite",
        "confusion/at-chance",
        "confusion/class-order",
        "predictions/bad-image-truncated",
        "suspects/labels",
        "neighbors/conflicting-duplicates",
        "confusion/mostly-missed",
        "filters/dead",
        "ablation/matters",
    ]
    assert sorted(reversed(codes), key=rank) == codes


def test_what_nobody_listed_comes_last():
    assert rank("spectra/odd") == len(READING_ORDER)
