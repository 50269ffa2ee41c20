"""What samplers hand on to the pipeline."""

from inspect import Parameter, signature
from typing import Any, get_type_hints

import pytest

from dreamprop.sampling import paradigms, piadm, randomized_midpoint, srds
from dreamprop.sampling.pipeline import PipelineArguments, Prompted


def test_the_arguments_that_are_handed_on_are_those_that_prompted_takes() -> None:
    taken = signature(Prompted).parameters.values()
    keywords = {parameter.name for parameter in taken if parameter.kind is Parameter.KEYWORD_ONLY}
    assert keywords == PipelineArguments.__annotations__.keys()
    hints = get_type_hints(Prompted.__init__)
    assert {name: hints[name] for name in keywords} == get_type_hints(PipelineArguments)


@pytest.mark.parametrize("sampler", [paradigms, srds, piadm, randomized_midpoint])
def test_what_nobody_knows_is_refused(sampler: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'guidance_rescale'"):
        sampler(None, "a red mug", guidance_rescale=0.7)
