"""One HTTPS conversation with one BMC: login, patience with a busy BMC, errors that say what happened.

Stands on sushy's connector for what that knows of BMCs: no kept connections, no compression, the ways
of If-Match, error bodies. Two habits of sushy 5.14 are not taken over: it sends every request again
when an answer was lost, a reset too, and it answers each refusal with another login.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
import sushy.connector
from sushy import exceptions
from urllib3.exceptions import NewConnectionError

from provision.errors import GaveUp, LabError, Refused
from provision.redfish.body import Json, link, local, objects, part
from provision.redfish.machine import Machine
from provision.redfish.pace import Pace
from provision.redfish.refusals import Account
from provision.redfish.trust import Trust, innermost, is_distrust, untrusted
from provision.wait import NotYet, Patience

# sushy warns of what it also raises, and of much that it gets over: what matters reaches us as exceptions.
logging.getLogger("sushy").setLevel(logging.CRITICAL)

ROOT = "/redfish/v1/"
ACCEPTED, SERVER_ERROR, UNAVAILABLE = 202, 500, 503
BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, CONFLICT, PRECONDITION_FAILED = 400, 401, 404, 409, 412
NOT_NOW = frozenset({CONFLICT, 429, UNAVAILABLE})
NO_SESSIONS = frozenset({NOT_FOUND, 405, 429, 501, UNAVAILABLE})
LOST_AT_MOST = 3
MEANS_NOT_NOW = (
    "UnableToModifyDuringSystemPOST",  # HPE iLO, boot settings while the host is in POST (LP#2136275)
    "InvalidOperationForSystemState",  # HPE iLO, power actions in quick succession (LP#2016307)
    "SYS518",  # Dell iDRAC, not ready after the operation before
)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a BMC may take: to connect and to answer (seconds), to be ready, to keep, to reset."""

    connect: float = 10.0
    read: float = 30.0
    busy: Patience = field(default_factory=lambda: Patience(120.0))
    kept: Patience = field(default_factory=lambda: Patience(30.0))
    reset: Patience = field(default_factory=lambda: Patience(300.0))

    @classmethod
    def within(cls, seconds: float) -> Timing:
        """Patience for a step that may take `seconds`."""
        usual = cls()
        return cls(
            connect=min(usual.connect, seconds),
            read=min(usual.read, seconds),
            busy=Patience(min(usual.busy.seconds, seconds)),
            kept=Patience(min(usual.kept.seconds, seconds)),
            reset=Patience(seconds),
        )


class Connection(sushy.connector.Connector):  # type: ignore[misc]
    """Requests to one BMC. Not for two threads at once.

    GET and PATCH are repeated while the BMC asks to wait and a few times after a lost answer; POST and
    DELETE are sent once. Raises Refused for a refused login, once and without asking again; Unreachable
    for an untrusted certificate; GaveUp when a busy BMC stays busy; else sushy's exceptions.
    """

    def __init__(self, node: Machine, *, port: int, timing: Timing) -> None:
        super().__init__(
            f"https://{node.bmc.address}:{port}",
            response_callback=self._note,
            server_side_retries=1,
            default_request_timeout=timing.read,
            connect_timeout=timing.connect,
        )
        self._node, self._port, self._timing = node, port, timing
        # No proxy, no .netrc and no bundle of CAs out of the environment, and no way to plain HTTP.
        self._session.trust_env = False
        self._session.adapters.clear()
        self.trust = Trust(node.bmc)
        self._session.mount("https://", self.trust)
        self.login = Login(self, node)
        self.root: dict[str, Json] = {}
        self._refusal: Refused | None = None
        self._account = Account(node.bmc, port)
        self._not_before = 0.0
        self._pace = Pace(timing.busy.now)

    def open(self) -> None:
        """Read the service root and log in, alone of all on this machine that log in to this account."""
        with self._account.turn(self._timing.busy):
            if verdict := self._account.verdict():
                raise self._refused(verdict, self._account.remedy)
            self._enter()

    def _enter(self) -> None:
        try:
            self.root = self.read(ROOT)
        except exceptions.AccessError:
            self.login.by_password("the BMC shows its service root to nobody else")
            self.root = self.read(ROOT)
        else:
            self.login.enter(self.root)

    def close(self) -> None:
        """Log out of every session that was opened here."""
        self.login.out()
        super().close()

    def read(self, path: str) -> dict[str, Json]:
        """The JSON object at `path`; raises ValueError when it is none."""
        return json_object(self.get(path))

    def read_or_none(self, path: Json) -> dict[str, Json] | None:
        """The JSON object at `path`, or None when there is no such thing."""
        if not isinstance(path, str):
            return None
        try:
            return self.read(path)
        except exceptions.ResourceNotFoundError:
            return None

    def links(self, collection: Json) -> Iterator[dict[str, Json]]:
        """The members of a collection as it lists them, page after page; nothing for a missing one."""
        pages: set[str] = set()
        while isinstance(collection, str) and collection not in pages:
            pages.add(collection)
            page = self.read_or_none(collection)
            yield from objects(part(page, "Members"))
            collection = part(page, "Members@odata.nextLink")

    def members(self, collection: Json) -> Iterator[dict[str, Json]]:
        """The members of a collection in full; some BMCs have them in the list already."""
        for listed in self.links(collection):
            body = listed if len(listed) > 1 else self.read_or_none(link(listed))
            if body is not None:
                yield body

    def ask(self, method: str, path: str, **more: object) -> requests.Response:
        """Send one request once, without patience and without another login."""
        if self._refusal:
            raise self._refusal
        try:
            more |= {"server_side_retries_left": 0}
            with self._pace.request():
                answer: requests.Response = super()._op(method, local(path), **more)
        except exceptions.ConnectionError as error:
            if is_distrust(error):
                raise untrusted(self._node, self._port, error, self._timing.connect) from error
            raise
        except AttributeError as error:
            # sushy takes every error body for an object of objects, and trips over others.
            raise ValueError(f"{path} answers an error with a body that is not Redfish") from error
        return answer

    def refused(self, error: exceptions.HTTPError) -> Refused:
        """The one refusal of our login; from here on nothing is asked, so that no account is locked."""
        if isinstance(error, exceptions.AccessError):
            self._account.note(told(error))
        likely = "one of the two is wrong, or the account is locked; it was tried only once"
        return self._refused(told(error), likely)

    def _refused(self, words: str, likely: str) -> Refused:
        bmc = self._node.bmc
        self._refusal = Refused(
            f"{bmc.name} ({bmc.address}) refuses the login, user from {bmc.user.reference}, password from "
            f"{bmc.password.reference}: {words}",
            node=self._node.name,
            likely=likely,
        )
        return self._refusal

    def logged_in(self) -> None:
        """A login was taken: refusals of before are past."""
        self._account.forget()

    @property
    def asked_to_wait(self) -> bool:
        """Whether the BMC has named a time before which it is not to be asked."""
        return self._not_before > self._timing.busy.now()

    def _op(
        self, method: str, path: str = "", data: Json = None, headers: Json = None, **more: object
    ) -> requests.Response:
        """What every method of sushy's connector goes through."""
        more |= {"data": data, "headers": headers}
        if method == "DELETE":
            return self.ask(method, path, **more)
        if method == "POST":
            self._timing.busy.until(f"leave for POST {path}", self._is_time, node=self._node.name)
            return self._with_login(method, path, **more)
        what = f"an answer to {method} {path} from {self._node.bmc.name}"
        return self._patiently(what, lambda: self._with_login(method, path, **more))

    def _patiently(self, what: str, ask: Callable[[], requests.Response]) -> requests.Response:
        lost = 0

        def probe() -> requests.Response | NotYet:
            nonlocal lost
            if isinstance(wait := self._is_time(), NotYet):
                return wait
            try:
                return ask()
            except exceptions.HTTPError as error:
                if not asks_to_wait(error):
                    raise
                return NotYet(told(error))
            except exceptions.ConnectionError as error:
                lost += 1
                if lost >= LOST_AT_MOST or self._timing.busy.now() >= ends:
                    raise
                return NotYet(str(innermost(error)))

        # A BMC that is silent to the end is not a busy one: what it is told as is the lost connection.
        ends = self._timing.busy.now() + self._timing.busy.seconds
        return self._timing.busy.until(what, probe, node=self._node.name)

    def _with_login(self, method: str, path: str, **more: object) -> requests.Response:
        """Ask; when the session has ended meanwhile, log in again and ask once more.

        A 401 says that nothing was done, so this is safe for a reset, too.
        """
        try:
            return self.ask(method, path, **more)
        except exceptions.AccessError as error:
            if error.status_code != UNAUTHORIZED or self.login.how is None:
                raise
            if not self.login.by_session:
                raise self.refused(error) from error
        self.login.open_session()
        return self.ask(method, path, **more)

    def _note(self, response: requests.Response) -> None:
        if (seconds := retry_after(response.headers)) is not None:
            self._not_before = self._timing.busy.now() + seconds

    def _is_time(self) -> bool | NotYet:
        left, bmc = self._not_before - self._timing.busy.now(), self._node.bmc.name
        if left > self._timing.busy.seconds:
            most = f"and no more than {self._timing.busy.seconds:g} s are waited for it"
            raise GaveUp(f"{bmc} asks to wait {left:.0f} s, {most}", node=self._node.name)
        if left > 0:
            return NotYet(f"{bmc} asks to wait {left:.0f} s more")
        pause = self._pace.not_before - self._timing.busy.now()
        return NotYet(f"{bmc} is slow: it is asked again in {pause:.0f} s") if pause > 0 else True


class Login:
    """How the harness is known to a BMC: by a session where there are any, else by Basic authentication."""

    def __init__(self, connection: Connection, node: Machine) -> None:
        self._connection, self._bmc = connection, node.bmc
        self._collection = ""
        self._opened: list[str] = []
        self.how: str | None = None
        self.by_session = False

    def enter(self, root: Mapping[str, Json]) -> None:
        """Log in to the service with this root."""
        self._collection = link(root, "Links", "Sessions") or f"{ROOT}SessionService/Sessions"
        if part(root, "Links", "Sessions") or part(root, "SessionService"):
            self.open_session()
        else:
            self.by_password("the BMC has no sessions")

    def open_session(self) -> None:
        """Open a session; Basic authentication instead when the BMC gives none for a reason of its own."""
        self.by_session = False
        self._connection._session.headers.pop("X-Auth-Token", None)
        self._connection.trust.logins.add(("POST", urlsplit(self._collection).path))
        user = {"UserName": self._bmc.user.reveal(), "Password": self._bmc.password.reveal()}
        try:
            self._take(self._connection.ask("POST", self._collection, data=user))
        except exceptions.HTTPError as error:
            if error.status_code not in NO_SESSIONS and "SessionLimitExceeded" not in str(error):
                raise self._connection.refused(error) from error
            self.by_password(f"the BMC gives no session: {told(error)}")
        except exceptions.ConnectionError as error:
            if never_sent(error):
                raise
            # Asking again would open a second session, and nobody would ever close the first.
            self.by_password("the answer to the login was lost")

    def by_password(self, why: str) -> None:
        """Send user and password with every request from now on."""
        self._connection.set_http_basic_auth(self._bmc.user.reveal(), self._bmc.password.reveal())
        self.how, self.by_session = f"basic ({why})", False

    def out(self) -> None:
        """End all sessions opened here, those too that have ended by themselves."""
        while self._opened:
            try:
                self._connection.delete(self._opened.pop())
            except (exceptions.SushyError, LabError, ValueError):
                continue  # gone already, or the BMC is: it ends the session by its own timeout
        self.how, self.by_session = None, False

    def _take(self, answer: requests.Response) -> None:
        uri = answer.headers.get("Location") or part(json_object(answer), "@odata.id")
        if uri:
            self._opened.append(urlsplit(str(uri)).path)
            self._connection.trust.logins.add(("DELETE", self._opened[-1]))
        token = answer.headers.get("X-Auth-Token")
        if token is None:
            self.by_password("the BMC gives no token")
        else:
            self._connection.set_http_session_auth(token)
            self.how, self.by_session = "session", True
            self._connection.logged_in()


def json_object(answer: requests.Response) -> dict[str, Json]:
    """The JSON object of an answer; raises ValueError when it holds none."""
    body = answer.json()
    if not isinstance(body, dict):
        raise ValueError(f"{answer.url} is no JSON object")
    return body


def asks_to_wait(error: exceptions.HTTPError) -> bool:
    """Whether a refusal means "not now": nothing was done, and later may be better."""
    return error.status_code in NOT_NOW or any(word in str(error) for word in MEANS_NOT_NOW)


def never_sent(error: exceptions.ConnectionError) -> bool:
    """Whether the request cannot have reached the BMC, because no connection came about."""
    cause = error.__context__
    if isinstance(cause, requests.exceptions.ConnectTimeout):
        return True
    reason = getattr(cause.args[0], "reason", None) if cause and cause.args else None
    return isinstance(reason, NewConnectionError)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: a number, or a date beside the BMC's own date."""
    given = headers.get("Retry-After", "").strip()
    if given.isascii() and given.isdigit():
        return float(given)
    try:
        until, now = parsedate_to_datetime(given), parsedate_to_datetime(headers.get("Date", ""))
    except ValueError:
        return None
    return max(0.0, until.timestamp() - now.timestamp())


def told(error: exceptions.HTTPError) -> str:
    """What a BMC said with a refusal: status, and its own words if it had any."""
    details = objects(error.extended_info) or objects([error.extended_info])
    said = [part(detail, "Message") or part(detail, "MessageId") for detail in details]
    text = " ".join(str(word) for word in said if word) or str(error.detail or "")
    return f"{error.status_code} {text}".strip()[:400]
