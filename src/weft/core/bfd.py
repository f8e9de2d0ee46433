"""One BFD session in asynchronous mode (RFC 5880 §6): the rules by which two ends agree that they hear each other.

No I/O: datagrams, time (seconds of any steady clock) and randomness come as arguments. A session says when it wants to
send and what. `core/probing.py` makes of it what probing a path came to.
"""

from __future__ import annotations

from weft.errors import WireError
from weft.wire.bfd import (
    SEALED_HEAD,
    Auth,
    AuthKind,
    Diagnostic,
    Packet,
    State,
    decode,
    encode,
    genuine,
    reseal,
    resealed,
)

SLOW = 1_000_000
"""Microseconds between two packets at least, while a session is not Up (§6.8.3)."""
KEY_ID = 1
_WRAP = 1 << 32
_NEVER = float("inf")

Refusal = str
"""Why a datagram was not heeded: "" (it was), `malformed`, `stranger` (meant for another session),
`authentication`, `sequence`, `closed`."""


class Session:
    """One end. `interval`: microseconds between two packets that this end wants to send, and is ready to hear. `key`:
    b"" for none, else what both ends' meticulous keyed SHA1 is made with. `sequence`: where its numbers begin."""

    __slots__ = (
        "_auth_until",
        "_composed",
        "_detection_rx",
        "_heard",
        "_key",
        "_latest",
        "_polling",
        "_remote_demand",
        "_remote_desired",
        "_remote_required",
        "_sending_tx",
        "_sent_at",
        "_sequence_in",
        "_sequence_out",
        "_silence",
        "_told",
        "_wanted",
        "answer",
        "answered",
        "deadline",
        "diagnostic",
        "discriminator",
        "due_at",
        "heard",
        "heard_at",
        "multiplier",
        "remote",
        "remote_diagnostic",
        "remote_multiplier",
        "remote_state",
        "restarted",
        "state",
    )

    def __init__(
        self, discriminator: int, interval: int, key: bytes = b"", sequence: int = 0, multiplier: int = 3
    ) -> None:
        self.discriminator = discriminator
        self.multiplier = multiplier
        self.state = State.DOWN
        self.diagnostic: int = Diagnostic.NONE
        self.remote = 0
        """The other end's discriminator; 0: not known (any more)."""
        self.remote_state = State.DOWN
        self.remote_diagnostic: int = Diagnostic.NONE
        self.deadline = _NEVER
        """When silence of the other end has lasted too long."""
        self.heard_at = -_NEVER
        self.heard = 0
        """Packets that were heeded so far."""
        self.answer = 0
        """Octets of the poll that is to be answered now; 0: none is."""
        self.answered = 0
        """Octets of the last answer to a poll of ours, until whoever looks for one sets this back to 0."""
        self.restarted = False
        """The other end has begun anew, by its last packet or by one that its new sequence number kept from counting;
        nothing that says that the path is broken."""
        self._wanted = interval
        self._sending_tx = max(interval, SLOW)
        self._detection_rx = interval
        self._polling = False
        self._remote_required = 1
        self._remote_desired = 0
        self.remote_multiplier = 0
        self._remote_demand = False
        self._key = key
        self._sequence_out = sequence % _WRAP
        self._sequence_in = 0
        self._told = False
        self._auth_until = -_NEVER
        self._sent_at = -_NEVER
        self._composed = b""
        self._heard = b""
        self._silence = 0.0  # `detection`, as of the last change: what is asked for each packet
        self._latest = 0.0  # likewise, seconds until the next packet after one; inf: the other end wants none
        self.due_at = -_NEVER
        """When the next packet is to be sent at the latest; -inf: at once. Whoever looks at random moments has the
        jitter of §6.8.7; it is the caller's to keep packets 75 % of `interval` apart."""

    # What the two ends agreed on, in seconds. -------------------------------------------------------------------

    @property
    def detection(self) -> float:
        """How long the other end may be silent (§6.8.4); 0 before its first packet."""
        return self.remote_multiplier * max(self._detection_rx, self._remote_desired) / 1e6

    @property
    def interval(self) -> float:
        """The longest time between two packets of ours (§6.8.2); inf: the other end wants none."""
        return max(self._sending_tx, self._remote_required) / 1e6 if self._remote_required else _NEVER

    @property
    def polling(self) -> bool:
        """A poll for new intervals is not answered yet."""
        return self._polling

    def retime(self, interval: int) -> None:
        """Send every `interval` microseconds from now on, and be ready to hear as much. While Up, neither end waits too
        short: the longer one of the old and the new interval holds until the poll is answered (§6.8.3)."""
        if interval == self._wanted:
            return
        self._wanted = interval
        if self.state == State.UP:
            self._sending_tx = min(self._sending_tx, interval)
            self._detection_rx = max(self._detection_rx, interval)
            self._polling = True
            self._composed = b""
            self._schedule()
        else:
            self._settle()

    def _settle(self) -> None:
        """What is told is what holds."""
        self._sending_tx = self._desired
        self._detection_rx = self._wanted
        self._composed = b""
        self._schedule()

    @property
    def _desired(self) -> int:
        return self._wanted if self.state == State.UP else max(self._wanted, SLOW)

    # Hearing. ---------------------------------------------------------------------------------------------------

    def repeated(self, datagram: bytes, now: float) -> bool:
        """Whether it says nothing but what the last one said; then it is heeded, and nothing else has changed."""
        if self._key:
            if datagram[:SEALED_HEAD] != self._heard or (sequence := resealed(datagram, self._key)) is None:
                return False
            if now >= self._auth_until or not self._is_next(sequence):
                return False
            self._sequence_in = sequence
            self.restarted = False
        elif datagram != self._heard:
            return False
        self._note(now)
        return True

    def hear(self, datagram: bytes, now: float) -> Refusal:
        """A datagram for this session has come."""
        try:
            packet = decode(datagram)
        except WireError:
            return "malformed"
        if packet.yours not in (0, self.discriminator):
            return "stranger"
        if refusal := self._authenticate(datagram, packet, now):
            return refusal
        if self.state == State.ADMIN_DOWN:
            return "closed"
        plain = not (packet.poll or packet.final or len(datagram) != datagram[3])
        self._take(packet)
        self._heard = b"" if not plain else datagram[:SEALED_HEAD] if self._key else datagram
        if packet.poll:
            self.answer = len(datagram)
        if packet.final:
            self.answered = len(datagram)
        self._note(now)
        return ""

    def _note(self, now: float) -> None:
        self.heard += 1
        self.heard_at = now
        self.deadline = now + self._silence
        self._auth_until = now + 2 * self._silence

    def _authenticate(self, datagram: bytes, packet: Packet, now: float) -> Refusal:
        """Section 6.7.4. Where the two ends disagree on whether there is a key, nothing is heeded."""
        if not self._key and packet.auth is None:
            return ""
        if not self._key or packet.auth is None or packet.auth.kind != AuthKind.METICULOUS_SHA1:
            return "authentication"
        if packet.auth.key_id != KEY_ID or not genuine(datagram, packet, self._key):
            return "authentication"
        if now < self._auth_until and not self._is_next(packet.auth.sequence):
            self.restarted |= not packet.yours and packet.mine != self.remote
            return "sequence"
        self._sequence_in = packet.auth.sequence
        return ""

    def _is_next(self, sequence: int) -> bool:
        return 1 <= (sequence - self._sequence_in) % _WRAP <= 3 * self.multiplier

    def _take(self, packet: Packet) -> None:
        """Section 6.8.6, from where the packet is known to be the other end's."""
        self.restarted = packet.state == State.DOWN and not packet.yours and packet.mine != self.remote
        if (packet.mine, packet.diagnostic) != (self.remote, self.remote_diagnostic):
            self._composed = b""
        self.remote = packet.mine
        self.remote_state = packet.state
        self.remote_diagnostic = packet.diagnostic
        self._remote_required = packet.required_rx
        self._remote_desired = packet.desired_tx
        self.remote_multiplier = packet.multiplier
        self._remote_demand = packet.demand
        if self._polling and packet.final:
            self._polling = False
            self._settle()
        self._step(packet.state)
        self._schedule()

    def _step(self, said: State) -> None:
        """The state machine (§6.2): what the other end's state makes of ours."""
        if said == State.ADMIN_DOWN:
            if self.state != State.DOWN:
                self._become(State.DOWN, Diagnostic.NEIGHBOUR_DOWN)
        elif self.state == State.DOWN:
            if said == State.DOWN:
                self._become(State.INIT, self.diagnostic)
            elif said == State.INIT:
                self._become(State.UP, Diagnostic.NONE)
        elif self.state == State.INIT:
            if said != State.DOWN:
                self._become(State.UP, Diagnostic.NONE)
        elif said == State.DOWN:
            self._become(State.DOWN, Diagnostic.NEIGHBOUR_DOWN)

    def _become(self, state: State, diagnostic: int) -> None:
        """A change of state is told at once, and changes how often we send (§6.8.3)."""
        self.state = state
        self.diagnostic = diagnostic
        self._polling = state == State.UP
        self._told = False
        self._settle()

    def expire(self, now: float) -> None:
        """Heed the time: after too long a silence the session is Down (§6.8.4) and the other end forgotten. Nothing may
        lie unread when this is called."""
        if now < self.deadline:
            return
        self.deadline = _NEVER
        self.remote = 0
        self.remote_state = State.DOWN
        self._remote_demand = False
        self._remote_required = 1
        self._heard = b""
        self._composed = b""
        self._schedule()
        if self.state in (State.INIT, State.UP):
            self._become(State.DOWN, Diagnostic.TIME_EXPIRED)

    # Sending. ---------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """A change of state is told at once (§6.8.7). No periodic packets while the other end asks for none."""
        demanded = self._remote_demand and self.state == self.remote_state == State.UP and not self._polling
        self._silence = self.detection
        self._latest = _NEVER if demanded else self.interval * (0.9 if self.multiplier == 1 else 1.0)
        self.due_at = self._sent_at + self._latest if self._told else -_NEVER

    def compose(self, now: float) -> bytes:
        """The periodic packet, which counts as sent now."""
        self._sent_at = now
        if self._told:
            self.due_at = now + self._latest
        else:
            self._told = True
            self._schedule()
        if not self._composed:
            self._composed = self._packet(poll=self._polling)
        elif self._key:
            self._composed = reseal(self._composed, self._next_number(), self._key)
        return self._composed

    def compose_answer(self) -> bytes:
        """The answer to the poll that was heard, as long as the poll itself."""
        size, self.answer = self.answer, 0
        return self._packet(final=True).ljust(size, b"\0")

    def compose_padded(self, size: int) -> bytes:
        """A poll of `size` octets, beside the periodic packets (RFC 9764)."""
        return self._packet(poll=True).ljust(size, b"\0")

    def close(self) -> None:
        """This end is taken out of service: what is sent from now on says so, and nothing is heeded any more."""
        self._become(State.ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN)
        self._polling = False
        self.deadline = _NEVER

    def _next_number(self) -> int:
        number = self._sequence_out
        self._sequence_out = (number + 1) % _WRAP
        return number

    def _packet(self, poll: bool = False, final: bool = False) -> bytes:
        auth = None
        if self._key:
            auth = Auth(AuthKind.METICULOUS_SHA1, KEY_ID, self._next_number())
        packet = Packet(
            self.state,
            self.discriminator,
            self.remote,
            self._desired,
            self._wanted,
            self.multiplier,
            self.diagnostic,
            poll=poll,
            final=final,
            auth=auth,
        )
        return encode(packet, self._key)
