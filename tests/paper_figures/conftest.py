"""The invented records of the results tests serve here too."""

from tests.results.conftest import make_record, make_sweep

__all__ = ["make_record", "make_sweep"]
