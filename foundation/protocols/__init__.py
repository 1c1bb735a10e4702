"""What a callback asks of a module; how it leaves the module afterwards is in ``foundation.evaluation``.

What a module can do may depend on its config (InfoGAN on faces has no category), so it answers
``capabilities()`` with the protocols that it serves as configured; ``launch.parts_check`` refuses a callback
whose ``requires`` is not among them, nor the base of one, before anything starts.

A protocol names what goes in: images, token ids, latents. Where only what comes out matters, there is a base without
an input (``Classifies``), and one heir for each kind of input; who calls a module's functions asks for the heir.
"""

from foundation.protocols.classification import (
    AssignsClusters,
    Classifies,
    ClassifiesImages,
    ClassifiesPoints,
    ClassifiesText,
    PenalizesTransport,
    WeighsClustersOfImages,
)
from foundation.protocols.data import (
    AnnotatesObjects,
    FiltersEndings,
    GoesThroughImages,
    HoldsImages,
    HoldsQuestions,
    HoldsReferences,
    HoldsTables,
    HoldsTokens,
    KnowsWords,
    OffersEndings,
    ShowsViews,
)
from foundation.protocols.detection import (
    DetectsObjects,
    DetectsObjectsInImages,
    ProposesRegions,
    ProposesRegionsInImages,
)
from foundation.protocols.images import (
    BoundsLikelihood,
    BoundsLikelihoodOfImages,
    ChoosesCodes,
    Drawing,
    DrawsStepwise,
    MapsLatents,
    MovesLatents,
    SamplesImages,
    TraversesLatents,
    check_codes,
    describe_range,
)
from foundation.protocols.iteration import (
    WholeIteration,
)
from foundation.protocols.sayings import (
    Says,
    capabilities_of,
    declared_metrics,
    members_of,
    said,
    serves,
)
from foundation.protocols.text import (
    ContinuesText,
    EditsTargets,
    EmbedsText,
    EstimatesNumbers,
    FillsMasks,
    FindsSpans,
    HasReleasedLayout,
    PredictsTokens,
    TagsTokens,
    Translates,
)
