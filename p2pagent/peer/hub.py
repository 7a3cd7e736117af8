"""Hub clearing as one part of a peer: passes messages to the parts that it plays, and lets no lie about them pass.

Rule 1: a book or sheet reaches the parts only after it was checked, replayed and compared with what we hold already.
Rule 2: a lie that can be proved goes to all neighbours; its author is dealt with no more, here and wherever it comes.
Rule 3: nobody can have us check or send large things as often as it likes.
"""

from random import Random

from p2pagent.bounded import bound
from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.allowance import Allowance
from p2pagent.peer.auctioneer import Auctioneer
from p2pagent.peer.bidder import Bidder
from p2pagent.peer.credit import Credit
from p2pagent.peer.directory import Directory
from p2pagent.peer.effects import Archive, Blame, Effect, Send, SetTimer, Shun
from p2pagent.peer.epochs import GRANT_MS, Cast
from p2pagent.peer.events import SheetKnown, Timer
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.hub_messages import (
    Acknowledgement,
    Book,
    Claim,
    Clearing,
    Decline,
    Fetch,
    Proof,
    Reveal,
    Sheet,
    SignedAcknowledgement,
    SignedBook,
    SignedCommit,
    SignedOffer,
    SignedSheet,
    Solicit,
    Statement,
)
from p2pagent.peer.membership import Membership
from p2pagent.peer.messages import Fail
from p2pagent.peer.offers import Offers
from p2pagent.peer.proofs import verdict
from p2pagent.peer.seller import Seller
from p2pagent.peer.sheet import body_id, check_book
from p2pagent.peer.sheets import Sheets
from p2pagent.peer.wire import HubMessage, opened, parsed
from p2pagent.routing.hubs import Hubs
from p2pagent.routing.prototypes import Space
from p2pagent.types import PeerId

BOOKS_MAX = 64
FETCHES_MAX = 64
CLAIMS_MAX = 16
CLAIMS_PER_BUYER_MAX = 4
"""Claims, each with a prompt, that wait for their sheet."""

PROOF_BURST, PROOF_REFILL_MS = 4, 10_000
FETCH_BURST, FETCH_REFILL_MS = 8, 1_000


class Hub:
    """All that this peer has to do with hub clearing."""

    def __init__(
        self,
        keys: Keys,
        space: Space,
        hubs: Hubs,
        membership: Membership,
        seller: Seller,
        credit: Credit,
        sheets: Sheets,
        rng: Random,
        started_ms: int,
    ) -> None:
        self._keys = keys
        self._membership = membership
        self._directory: Directory = membership.directory
        self.cast = Cast(keys.peer, space, hubs, self._directory)
        self.sheets = sheets
        self.auctioneer = Auctioneer(keys, self.cast, started_ms)
        self.bidder = Bidder(keys, self.cast, rng)
        self.offers = Offers(keys, self.cast, seller, credit)
        self._books: dict[Clearing, Statement] = {}
        self._owed: dict[Clearing, dict[str, Statement]] = {}
        self._fetching: dict[bytes, None] = {}
        self._claims: dict[tuple[PeerId, bytes], tuple[Claim, int]] = {}
        self._proofs = Allowance(PROOF_BURST, PROOF_REFILL_MS)
        self._asked = Allowance(FETCH_BURST, FETCH_REFILL_MS)
        self._fetches = Allowance(FETCH_BURST, FETCH_REFILL_MS)

    def open_for(self, agents: tuple[AgentAdvert, ...]) -> None:
        """Take part with these local agents."""
        self.cast.local, self.cast.looked_ms = agents, -1
        self.offers.open_for(agents)

    def fetch(self, sheet: bytes, holder: PeerId, now_ms: int) -> list[Effect]:
        """Ask `holder` for a sheet, not too often; `SheetKnown` follows if it comes and is right."""
        if not self._asked.take(holder, now_ms):
            return []
        self._fetching[sheet] = None
        bound(self._fetching, FETCHES_MAX)
        return [Send(holder, Fetch(sheet))]

    def on_message(self, peer: PeerId, message: HubMessage, now_ms: int) -> list[Effect]:
        """Act on a message of the hub protocol.

        Raises:
            RemoteError: it breaks the protocol, and its sender is to blame.
        """
        match message:
            case SignedCommit():
                return self.auctioneer.on_commit(peer, message, now_ms)
            case SignedOffer():
                return self.auctioneer.on_offer(peer, message, now_ms)
            case Reveal():
                return self.auctioneer.on_reveal(peer, message, now_ms)
            case Solicit():
                return self.offers.on_solicit(peer, message, now_ms)
            case SignedAcknowledgement(body, signature):
                ack = opened(Acknowledgement, body, signature, peer, self._keys)
                if ack.auctioneer != peer:
                    raise RemoteError("acknowledgement in another's name")
                self._remember(ack, Statement("ack", body, signature))
                part = self.offers if ack.what == "offer" else self.bidder
                return part.on_acknowledgement(ack, message)
            case Decline():
                return [*self.bidder.on_decline(peer, message), *self.offers.on_decline(peer, message, now_ms)]
            case SignedBook():
                return self._on_book(peer, message, now_ms)
            case SignedSheet():
                return self._on_sheet(message, now_ms)
            case Claim():
                return self._on_claim(peer, message, now_ms)
            case Fetch(sheet):
                held = self.sheets.get(sheet)
                return [Send(peer, held.signed)] if held is not None and self._fetches.take(peer, now_ms) else []
            case Proof():
                return self._on_proof(peer, message, now_ms)

    def on_timer(self, timer: Timer, now_ms: int) -> list[Effect]:
        """A deadline of one of the parts has come."""
        match timer.kind:
            case "book":
                return self.auctioneer.on_book_timer(timer.ident.decode(), timer.mark, now_ms)
            case "sheet":
                return self.auctioneer.on_sheet_timer(timer.ident.decode(), timer.mark, now_ms)
            case "bid":
                return self.bidder.on_bid_timer(now_ms)
            case "cleared":
                return self.bidder.on_deadline(timer.ident.decode(), timer.mark)
            case "offer":
                return self.offers.on_deadline(timer.ident, timer.mark, now_ms)
            case "grant":
                return [*self._expire_claims(now_ms), *self.offers.on_grant_timer(timer.ident, now_ms)]
        return []

    def on_sheet_known(self, sheet: bytes, now_ms: int) -> list[Effect]:
        """Claims that waited for this sheet can be judged now."""
        effects: list[Effect] = []
        for key, (claim, _) in list(self._claims.items()):
            if claim.sheet == sheet:
                del self._claims[key]
                effects += self.offers.on_claim(key[0], claim, now_ms)
        return effects

    def _on_book(self, peer: PeerId, message: SignedBook, now_ms: int) -> list[Effect]:
        book = opened(Book, message.body, message.signature, peer, self._keys)
        if book.auctioneer != peer:
            raise RemoteError("book in another's name")
        clearing = book.clearing
        if not self._takes_part(clearing):
            return []
        statement = Statement("book", message.body, message.signature)
        known = self._books.get(clearing)
        if known is not None and known.body == statement.body:
            return []
        self._books.setdefault(clearing, statement)
        bound(self._books, BOOKS_MAX)
        if known is not None:
            return self._lie(clearing, Proof((known, statement)), now_ms)
        try:
            view = check_book(book, self._keys)
        except RemoteError:
            return self._lie(clearing, Proof((statement,)), now_ms)
        return [*self.bidder.on_book(view, statement), *self.offers.on_book(view, statement, now_ms)]

    def _on_sheet(self, message: SignedSheet, now_ms: int) -> list[Effect]:
        sheet = parsed(message.body, Sheet)
        book = parsed(sheet.book, Book)
        clearing = book.clearing
        # A seller could clear a hub of its own making at any price, were it not that anybody can see who was drawn.
        asked_for = body_id(message.body) in self._fetching
        drawn = asked_for and clearing[2] in self.cast.auctioneers(book.hub, book.epoch, now_ms)
        if not drawn and not self._takes_part(clearing):
            return []
        taken = self.sheets.take(message)
        if isinstance(taken, Proof):
            # Nothing was granted by it: whoever claims is told so at once.
            return [*self._lie(clearing, taken, now_ms), *self.on_sheet_known(body_id(message.body), now_ms)]
        self._fetching.pop(taken.view.sheet_id, None)
        known = self._books.get(clearing)
        statement = Statement("sheet", message.body, message.signature)
        if known is not None and known.body != sheet.book:
            return self._lie(clearing, Proof((known, statement)), now_ms)
        omission = None if self._takes_part(clearing) else self._omission(clearing, statement)
        if omission is not None:
            return self._lie(clearing, omission, now_ms)
        kept: list[Effect] = [Archive(taken.view.sheet_id, message), SheetKnown(taken.view.sheet_id)]
        return [*self.bidder.on_sheet(taken), *self.offers.on_sheet(taken, now_ms), *kept]

    def _on_claim(self, buyer: PeerId, claim: Claim, now_ms: int) -> list[Effect]:
        if self.sheets.get(claim.sheet) is not None:
            return self.offers.on_claim(buyer, claim, now_ms)
        conversation = claim.call.conversation
        theirs = sum(peer == buyer for peer, _ in self._claims)
        full = len(self._claims) >= CLAIMS_MAX or theirs >= CLAIMS_PER_BUYER_MAX
        if full or (buyer, conversation) in self._claims or not self.offers.awaits_claims(now_ms):
            return [Send(buyer, Fail(conversation, "expired"))]
        self._claims[buyer, conversation] = (claim, now_ms + GRANT_MS)
        return [*self.fetch(claim.sheet, buyer, now_ms), SetTimer(now_ms + GRANT_MS, Timer("grant", conversation))]

    def _expire_claims(self, now_ms: int) -> list[Effect]:
        """Their sheet has not come."""
        late = [key for key, (_, until_ms) in self._claims.items() if until_ms <= now_ms]
        for key in late:
            del self._claims[key]
        return [Send(buyer, Fail(conversation, "expired")) for buyer, conversation in late]

    def _on_proof(self, peer: PeerId, proof: Proof, now_ms: int) -> list[Effect]:
        if peer != self._keys.peer and not self._proofs.take(peer, now_ms):
            return []
        found = verdict(proof, self._keys)
        if found.culprit == self._keys.peer or self._directory.is_banned(found.culprit):
            return []
        self._directory.ban(found.culprit)
        others = sorted(self._membership.neighbours - {peer, found.culprit})
        return [
            Blame(found.culprit, f"{found.crime}: {found.detail}"),
            Shun(found.culprit),
            *(Send(other, proof) for other in others),
        ]

    def _lie(self, clearing: Clearing, proof: Proof, now_ms: int) -> list[Effect]:
        """Tell ourselves as we would tell others, and go on as if there had been no clearing."""
        reason = "the auctioneer was found lying"
        self.sheets.forget(clearing)
        return [
            Send(self._keys.peer, proof),
            *self.bidder.on_void(clearing, reason),
            *self.offers.on_void(clearing, now_ms),
        ]

    def _remember(self, ack: Acknowledgement, statement: Statement) -> None:
        """Whoever leaves us out need not send us the book; but its sheet may come to us later, from others."""
        clearing = ack.clearing
        if self._takes_part(clearing):
            self._owed.setdefault(clearing, {})[ack.what] = statement
            bound(self._owed, BOOKS_MAX)

    def _omission(self, clearing: Clearing, sheet: Statement) -> Proof | None:
        """Proof that the sheet of a clearing that is over for us lacks what was acknowledged to us."""
        for acknowledged in self._owed.pop(clearing, {}).values():
            proof = Proof((acknowledged, sheet))
            try:
                verdict(proof, self._keys)
            except RemoteError:
                continue
            return proof
        return None

    def _takes_part(self, clearing: Clearing) -> bool:
        return self.offers.promised(clearing) or self.bidder.bids(clearing)
