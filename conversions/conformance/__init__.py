"""The suite that proves one family, whoever brings it.

    pytest --pyargs conversions.conformance --family NAME

    result = conversions.check_family("NAME")
    result.passed, result.counts, result.failures

Without --family every installed family is proved. pytest and hypothesis come with the extra
`conformance`. Importing this imports neither.
"""

from .running import Failure, Result, check_family

__all__ = ["Failure", "Result", "check_family"]
