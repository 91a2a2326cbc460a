"""The terms on which a client takes part in a secure sum, from its own settings and never from the server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedloom.core.payload import group_of
from fedloom.privacy.clipping import by_group
from fedloom.privacy.differential.noise import Stream
from fedloom.privacy.differential.quantile import BELOW, LARGEST
from fedloom.privacy.differential.settings import QuantileClip
from fedloom.privacy.secure.protocol import ProtocolError, Roster, threshold_of
from fedloom.privacy.secure.signatures import Identity
from fedloom.privacy.settings import Privacy


def _nobody(sentence: str) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Safeguards:
    """A client's safeguards against a server that does not follow the protocol."""

    identity: Identity | None = None
    """Its signing key and the list of all; without, nothing is signed and the server is believed who takes part."""
    fellows: int = 0
    """The least number of other clients in every sum that is opened with this client's values."""
    report: Callable[[str], None] = _nobody
    """Told each sentence with which the client refuses to go on in a sum."""


@dataclass(frozen=True)
class Terms:
    """The least terms on which a client takes part in a sum, from its own experiment."""

    privacy: Privacy
    by_examples: bool
    stream: Stream
    round: int = 0
    safeguards: Safeguards = field(default_factory=Safeguards)

    def clip(self, instructions: Mapping[str, Any]) -> float:
        """The clip: this client's own, or the server's where it is adaptive. Raises ProtocolError for an unusable one."""
        dp, secure = self.privacy.dp, self.privacy.secure
        if dp is None or secure is None:
            return 0.0
        if not isinstance(dp.clip, QuantileClip):
            if group_of(BELOW) in by_group(instructions["layout"]):  # it would leave without noise
                raise ProtocolError("the server asks for a count of the clients below a clip that is fixed")
            return dp.clip
        clip = instructions.get("clip")
        if not isinstance(clip, float) or not 0 < clip <= LARGEST:
            raise ProtocolError(f"the clip should be a number above 0 and at most {LARGEST:g}")
        if BELOW not in instructions["layout"]:
            raise ProtocolError("the server asks for no count of the clients below the clip")
        return clip

    def check(self, client: str, roster: Roster) -> None:
        """Raise ProtocolError where the server offers less."""
        secure, fellows = self.privacy.secure, self.safeguards.fellows
        if secure is None:
            raise ProtocolError("this client's experiment knows of no secure sum")
        if (
            roster.threshold < threshold_of(secure.threshold, len(roster.clients))
            or roster.least < secure.least
        ):
            raise ProtocolError("the server's threshold is below that of this client's experiment")
        for group in roster.groups.get(client, ()):
            if (others := roster.least_of(group) - 1) < fellows:
                raise ProtocolError(
                    f"too few fellows: the sum of {group} could be opened with {others}, and {client} demands {fellows} "
                    f"({len(roster.clients)} clients take part)"
                )
