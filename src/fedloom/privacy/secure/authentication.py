"""The signed variant of secure summation (Bonawitz et al., CCS 2017, Figure 4, the lines for an active server).

Beside the paper, every client signs the whole roster with its shares: it holds everybody's fresh keys, so that the signature
shows that its signer takes part in this very sum, and that all were told of one roster.
"""

from collections.abc import Mapping, Sequence

from fedloom.core.payload import Payload
from fedloom.core.plain_text import shown
from fedloom.privacy.secure.messages import SIGNATURE, to_bytes
from fedloom.privacy.secure.protocol import Abandoned, ProtocolError, Roster
from fedloom.privacy.secure.signatures import Identity, PublicKeys, Texts

FORGED = "the keys of {0} in this sum are not signed by {0}"
OTHER_ROSTER = "{0} has not signed this roster: it was told of other clients or keys"
OTHER_SURVIVORS = "{0} has not signed this list of survivors: it was told of others"


class Signer:
    """A client's signatures and checks in one sum, under the list of sites that it had at the sum's beginning."""

    def __init__(self, identity: Identity, client: str, session: str, round: int, clip: float = 0.0) -> None:
        self.identity, self.client = identity, client
        self.known = identity.known()
        self.texts = Texts(session, round, self.known.version, clip)
        self._survivors: list[str] | None = None
        if client not in self.known.keys:
            raise ProtocolError(f"{client} is not in the signed list of sites (version {self.known.version})")

    def keys(self, sealing: bytes, masking: bytes, groups: Sequence[str]) -> bytes:
        """The signature of this client's fresh keys and groups."""
        return self.identity.sign(self.texts.keys(self.client, sealing, masking, groups))

    def roster(self, roster: Roster, signatures: Mapping[str, bytes]) -> bytes:
        """The signature of the roster. Raises ProtocolError by name for keys that their client has not signed."""
        for c in roster.clients:
            text = self.texts.keys(c, roster.sealing[c], roster.masking[c], roster.groups[c])
            self.known.check(c, text, signatures.get(c, b""), FORGED.format(c))
        return self.identity.sign(self.texts.roster(roster))

    def check_roster(self, roster: Roster, present: Sequence[str], signatures: Mapping[str, bytes]) -> None:
        """Raise ProtocolError by name unless every client in `present` has signed the same roster."""
        text = self.texts.roster(roster)
        for c in present:
            self.known.check(c, text, signatures.get(c, b""), OTHER_ROSTER.format(c))

    def survivors(self, roster: Roster, survivors: Sequence[str]) -> bytes:
        """The signature of a list of survivors; a client gives one in a sum. Raises ProtocolError."""
        if self._survivors is not None:
            raise ProtocolError("this client has signed a list of survivors already")
        self._survivors = list(survivors)
        return self.identity.sign(self.texts.survivors(roster, survivors))

    def check_survivors(
        self, roster: Roster, survivors: Sequence[str], signatures: Mapping[str, bytes]
    ) -> None:
        """Raise ProtocolError unless this client and the threshold's number of survivors have signed this list."""
        if self._survivors != list(survivors):
            raise ProtocolError("this client has signed another list of survivors")
        text = self.texts.survivors(roster, survivors)
        for c, signature in signatures.items():
            self.known.check(c, text, signature, OTHER_SURVIVORS.format(c))
        if not set(signatures) <= set(survivors) or len(signatures) < roster.threshold:
            raise ProtocolError(
                f"{len(signatures)} survivors have signed who is left, {roster.threshold} are needed"
            )


class Witness:
    """The server's side: checks signatures, so that a bad one costs its sender alone, and keeps them to pass them on."""

    def __init__(self, known: PublicKeys, session: str, round: int, clip: float = 0.0) -> None:
        self.known, self.texts = known, Texts(session, round, known.version, clip)
        self.of_keys: dict[str, bytes] = {}
        self.of_roster: dict[str, bytes] = {}

    def keys(
        self, client: str, payload: Payload, sealing: bytes, masking: bytes, groups: Sequence[str]
    ) -> None:
        """Keep a client's signature of its keys. Raises ProtocolError."""
        if (version := payload.numbers.get("list")) != self.known.version:
            raise ProtocolError(
                f"goes by the list of sites {shown(version)}, and the server by {self.known.version}"
            )
        text = self.texts.keys(client, sealing, masking, groups)
        self.of_keys[client] = self._checked(client, payload, text, FORGED)

    def roster(self, client: str, payload: Payload, roster: Roster) -> None:
        """Keep a client's signature of the roster. Raises ProtocolError."""
        self.of_roster[client] = self._checked(client, payload, self.texts.roster(roster), OTHER_ROSTER)

    def survivors(self, client: str, payload: Payload, roster: Roster, survivors: Sequence[str]) -> bytes:
        """A client's signature of the list of survivors. Raises ProtocolError."""
        return self._checked(client, payload, self.texts.survivors(roster, survivors), OTHER_SURVIVORS)

    @staticmethod
    def enough(signed: Mapping[str, bytes], roster: Roster) -> None:
        """Raise Abandoned where too few have signed the list of survivors."""
        if len(signed) < roster.threshold:
            raise Abandoned(
                f"{len(signed)} of {len(roster.clients)} clients at phase consistency, {roster.threshold} are needed; "
                "nothing was opened"
            )

    def _checked(self, client: str, payload: Payload, text: bytes, fault: str) -> bytes:
        if SIGNATURE not in payload.tensors:
            raise ProtocolError("sent no signature")
        signature = to_bytes(payload.tensors[SIGNATURE])
        self.known.check(client, text, signature, fault.format(client))
        return signature
