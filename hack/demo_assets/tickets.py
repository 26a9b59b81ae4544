"""Write the demo's data: support tickets to Marlow, an invented company that rents shop equipment.

Each ticket becomes a compact JSON with labels of Marlow's own: team, product (code names that no ticket contains)
and due. Phrases, carriers, names and cities are disjoint between the splits, and that is checked. `real` is what
clients send: `final` tickets followed by signatures, log lines and quoted mails, 43.5 % of them too long for a
context of 256 tokens.

Usage: python tickets.py OUTDIR [--train 84] [--test 144] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

SYSTEM = "Marlow ticket triage. Answer with the JSON."
SPLITS = ("train", "test", "final")
Phrases = list[list[str]]


def _split(text: str) -> Phrases:
    """Cut `a|b ## c|d ## e|f` into the phrases of train, test and final."""
    return [[phrase.strip() for phrase in part.split("|")] for part in text.strip().split("##")]


PRODUCT = {
    "kassa": _split("""till|cash register|checkout till|cash drawer|main till|register at the counter|front register|cash desk
  ## counter till|second cash register|till with the cash drawer|checkout register|old register
  ## shop till|new cash register|till at the entrance|big register|till in the cafe"""),
    "tapio": _split("""card reader|card machine|payment terminal|contactless reader|card terminal|mobile card reader|credit card reader|wireless payment terminal
  ## contactless card terminal|card payment device|wireless card machine|reader for bank cards|payment card reader
  ## debit card machine|portable card reader|terminal for card payments|tap-to-pay reader|bank card terminal"""),
    "skanna": _split("""barcode scanner|handheld scanner|scanner gun|stock scanner|label scanner|wireless scanner|barcode reader|scanner in the stockroom
  ## hand scanner|bar code scanner|warehouse scanner|scanner for stock labels|scanning gun
  ## mobile scanner|scanner for price tags|cordless barcode scanner|inventory scanner|goods scanner"""),
    "prento": _split("""receipt printer|printer|label printer|ticket printer|thermal printer|kitchen printer|paper printer|printer on the desk
  ## bill printer|small printer|printer for receipts|slip printer|counter printer
  ## voucher printer|order printer|printer for labels|till roll printer|sticker printer"""),
}
TEAM = {
    "billing": _split("""We were charged twice for the {p}.|The invoice for our {p} shows the wrong amount.|Please refund the fee we paid for the {p}.|
  My monthly bill still lists a {p} we cancelled.|The VAT number on the {p} invoice is not ours.|The agreed discount on the {p} is missing from the bill.|
  I need a copy of the March invoice for the {p}.|Our bank rejected the direct debit for the {p}.|You took two payments for one {p}.|
  The monthly price of the {p} went up without notice.|What does the extra charge for the {p} mean?|Please put our new address on the invoice of the {p}.
  ## We were billed double for the {p}.|Why does the invoice list the {p} two times?|We want our money back for the {p} we returned.|
  The amount on the last bill for the {p} is too high.|The yearly fee of the {p} was charged although we quit.|
  The payment for our {p} was debited on the wrong date.|Tax is wrong on the {p} invoice.|Please send the bill for the {p} to our bookkeeper.
  ## There is a mistake in the bill for our {p}.|The refund for the {p} has not been paid yet.|We paid too much rent for the {p}.|
  Can you resend the invoice of the {p} as a PDF?|The rental fee of the {p} was taken from the wrong bank account.|
  We got a payment reminder for the {p} but we had paid.|The price for the {p} is higher than in your offer.|Our accountant cannot match the charge for the {p}."""),
    "repair": _split("""The {p} does not switch on any more.|The screen of the {p} is cracked.|The {p} makes a grinding noise.|Our {p} keeps freezing.|
  The {p} overheats and turns itself off.|A button on the {p} is stuck.|The {p} is broken since it fell on the floor.|The battery of the {p} dies after ten minutes.|
  The {p} shows error E{n} and stops.|The cable of the {p} is damaged.|The light on the {p} blinks red and it does nothing.|The {p} is very slow and often hangs.
  ## Our {p} went dead this morning.|The display of the {p} stays black.|The {p} crashes every few minutes.|A loud rattle comes out of the {p}.|
  Water got into the {p} and now it is faulty.|The {p} no longer powers up.|The housing of the {p} is broken.|The {p} restarts by itself and shows fault {n}.
  ## The {p} stopped working.|Smoke came out of the {p}.|The keys of the {p} do not react.|The power plug of the {p} is bent.|
  The {p} beeps all the time and shows fault code {n}.|There is a defect in the {p}.|The {p} turns off in the middle of the work.|The touch screen of the {p} has failed."""),
    "shipping": _split("""The {p} we ordered has not arrived.|The courier left the {p} at the wrong address.|The tracking page for the {p} has not changed for days.|
  You sent us a {p} in the wrong colour.|The box was empty, there was no {p} inside.|Please deliver the {p} to our new store in {c}.|
  The parcel with the {p} is stuck at customs.|Where is our {p}? The delivery date has passed.|Two parcels came, but we ordered one {p}.|
  Can the driver bring the {p} to the back door?|When will the {p} be sent to us?|The package was opened and the {p} was gone.
  ## The {p} was due on Monday and nothing was delivered.|The package with the {p} went to a shop in {c}.|The parcel service lost our {p}.|
  We received the wrong model of {p}.|Please ship the {p} to our branch in {c}.|The delivery van came without the {p}.|
  The tracking number of the {p} is not valid.|The {p} is still in the depot of the courier.
  ## The delivery of our {p} is late.|Our order for a {p} was sent to {c} by mistake.|Nobody was here when the courier came with the {p}.|
  The parcel for us contains a {p} that we did not order.|Please change the delivery address of the {p} to {c}.|
  We still wait for the parcel with the {p}.|Has the {p} already been shipped?|The tracking says the {p} was delivered, but it is not here."""),
    "login": _split("""I forgot the password for the {p}.|A new cashier needs a login for the {p}.|The {p} says my password is wrong.|My user is locked on the {p} after three tries.|
  Please remove a former employee from the {p}.|The reset email for the {p} account does not come.|I cannot sign in to the {p}.|The admin rights on the {p} are gone.|
  The login code for the {p} is never accepted.|We must change the user name on the {p}.|Please give our new manager rights on the {p}.|My staff account cannot open the {p} menu.
  ## The {p} refuses my login.|Nobody here knows the admin password of the {p}.|My account on the {p} has been blocked.|
  Please create a user for our new colleague on the {p}.|The sign-in code for the {p} does not work.|{who} left the firm and must lose access to the {p}.|
  I need a password reset on the {p}.|The {p} asks for a password that I do not have.
  ## My login for the {p} has expired.|Please unlock the user {who} on the {p}.|The {p} does not accept my password.|
  Our trainee needs an account for the {p}.|I am locked out of the {p}.|We want to change the admin password of the {p}.|
  {who} cannot log in to the {p}.|Please delete the account of {who} on the {p}."""),
}
DUE = {
    "now": _split("""We had to close the shop.|Nobody can pay, all sales have stopped.|All our stores are down.|We cannot sell anything right now.|
  Customers walk out, we lose money every minute.|The whole business is at a standstill.|Emergency, everything has stopped.|No sale is possible in any branch.|Our doors are closed because of it.|We are losing all our customers now.
  ## The store is shut because of this.|We are not able to sell at all.|Sales have stopped in all branches.|Every shop of ours is at a standstill.|
  This is an emergency, we lose money by the minute.|Everything is down and customers are leaving.
  ## The shop is closed until it is solved.|All sales are blocked.|Total standstill in our stores.|We cannot serve any customer.|Business has stopped completely.|It is an emergency, nothing can be sold."""),
    "today": _split("""We need this done today.|Please solve it before tomorrow morning.|It is urgent, a big sale starts tomorrow.|A spare helps us, but only until tonight.|
  Please hurry, our deadline is tomorrow.|This must be done by this evening.|It is quite urgent, please act within hours.|I need an answer today.|Please treat this with haste.|As soon as possible, please.
  ## It has to be settled by tonight.|Please be quick, tomorrow is our busiest day.|This is urgent, please act today.|
  Our workaround only lasts until tomorrow.|We need a solution this evening.|Please hurry, guests arrive tomorrow.
  ## It is urgent.|We need it before tonight.|Please answer today.|It must be ready by tomorrow.|Please be fast, our market opens tomorrow morning.|We need help within a few hours."""),
    "later": _split("""No hurry at all.|Whenever you have time.|There is no rush.|It can wait until next month.|Not important, just letting you know.|
  Only for our records.|Take as long as you like.|It is just a question, no hurry.|It is not pressing at all.|We do not need a quick answer.
  ## There is no need to hurry.|Whenever it suits you, no rush.|Next month is soon enough.|Just for information.|Not important to us, take your time.|It can wait a long time.
  ## This is not urgent, no hurry.|You can take your time.|It is not important.|Some time next month would do.|We are in no hurry.|It can wait, it is only for information."""),
}
CARRIER = _split("""{i} {m}|{m} {i}|Hello, {i} {m}|{i} {m} Regards, {who}|Shop {c}: {i} {m}|{who} from {c} here. {m} {i}|Hi team! {m} {i} Thanks.
  ## Good morning. {i} {m}|{m} {i} Best, {who}|Dear support, {i} {m} Store no. {n}, {c}|Message from {c}: {m} {i}|{i} Customer {n}. {m}
  ## Good evening, {i} {m}|{m} {i} Yours, {who}|Dear Marlow team, {m} {i}|{who}, store {n}: {i} {m}|Our branch in {c} writes: {i} {m}""")
WHO = _split(
    "Anna|Piet|Jonas|Maria|Luca|Sofie|Karim|Ines ## Greta|Hugo|Nadia|Oskar|Yusuf|Clara ## Bruno|Elif|Marta|Viktor|Zoe|Pavel"
)
CITY = _split(
    "Bergen|Lyon|Ghent|Porto|Graz|Leeds|Turin ## Malmo|Utrecht|Nantes|Bilbao|Linz|Cork ## Espoo|Lille|Brno|Cadiz|Trier|Bath"
)


FILLER = (
    "We opened this branch in {c} two years ago and have been a customer of Marlow since then.",
    "My colleague {w} already called your hotline on Tuesday and waited for twenty minutes before the line was cut.",
    "The device stands next to the window and is used by three people in two shifts.",
    "I attach a photo and the serial number, which is MW-{a}-{b}-{d}.",
    "Last month a technician named {w} visited us and said that everything was in order.",
    "On Wed, 3 Mar, {w} wrote: > Thank you for your message. > We have opened case {a}{b} and will come back to you.",
    "Sent from my phone. This message is confidential and intended for the addressee only; if you received it by "
    "mistake, please delete it.",
    "Kind regards, {w}, store manager, 14 Harbour Street, {c}, phone +47 55 {a} {b} {d}.",
    "2026-03-0{e} 09:{a}:{b} WARN device MW-{d} status=0x{b}F retry={e} timeout=30s",
)

# What the base model knows and tuning should not cost: answers are scored by words, so short ones.
GENERAL = (
    ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Spain?", "Madrid"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What colour is the sky on a clear day?", "Blue"),
    ("How many days are in a week?", "Seven"),
    ("How many legs does a spider have?", "Eight"),
    ("Which planet do we live on?", "Earth"),
    ("What is frozen water called?", "Ice"),
    ("What do bees make?", "Honey"),
    ("What is the opposite of hot?", "Cold"),
)


class Deck:
    """Deals the phrases of one split like cards: none starves, none comes twice before all came once."""

    def __init__(self, split: int, rng: random.Random) -> None:
        self._split = split
        self._rng = rng
        self._left: dict[int, list[str]] = {}

    def draw(self, phrases: Phrases) -> str:
        pool = self._left.setdefault(id(phrases), [])
        if not pool:
            pool.extend(self._rng.sample(phrases[self._split], len(phrases[self._split])))
        return pool.pop()


def _labels(count: int, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield (team, product, due): blocks of 12 hold every pair of team and due, products rotate."""
    products = list(PRODUCT)
    made = 0
    while made < count:
        block = [
            (team, products[(a + b + made // 12) % len(products)], due)
            for a, team in enumerate(TEAM)
            for b, due in enumerate(DUE)
        ]
        yield from rng.sample(block, len(block))[: count - made]
        made += len(block)


def tickets(split: int, count: int, rng: random.Random) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (ticket, label) pairs of one split."""
    deck = Deck(split, rng)
    for team, product, due in list(_labels(count, rng)):
        fields = {
            "p": deck.draw(PRODUCT[product]),
            "n": str(rng.randint(11, 98)),
            "c": deck.draw(CITY),
            "who": deck.draw(WHO),
        }
        carrier = deck.draw(CARRIER)
        body = carrier.replace("{i}", deck.draw(TEAM[team])).replace("{m}", deck.draw(DUE[due]))
        yield body.format(**fields), {"team": team, "product": product, "due": due}


def row(ticket: str, label: dict[str, str]) -> dict[str, object]:
    """Return one OpenAI-style chat row."""
    answer = json.dumps(label, separators=(",", ":"))
    turns = (("system", SYSTEM), ("user", ticket), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def lengthened(ticket: str, rng: random.Random) -> str:
    """Return the ticket as clients send it: with two to nine sentences of noise behind it."""

    def fill(sentence: str) -> str:
        return sentence.format(
            w=rng.choice(WHO[2]),
            c=rng.choice(CITY[2]),
            a=rng.randint(10, 99),
            b=rng.randint(10, 99),
            d=rng.randint(1000, 9999),
            e=rng.randint(1, 9),
        )

    return " ".join([ticket] + [fill(rng.choice(FILLER)) for _ in range(rng.randint(2, 9))])


def check_disjoint() -> None:
    """Raise when a phrase stands in two splits: the scores would then mean nothing."""
    tables: list[Phrases] = [*PRODUCT.values(), *TEAM.values(), *DUE.values(), CARRIER, WHO, CITY]
    for table in tables:
        train, test, final = (set(part) for part in table)
        if train & test or train & final or test & final:
            raise ValueError(f"a phrase stands in two splits: {train & test | train & final | test & final}")


def write(folder: Path, *, train: int, test: int, seed: int) -> None:
    """Write train, test, final and real as .jsonl files."""
    check_disjoint()
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, object]]] = {}
    for split, name in enumerate(SPLITS):
        rng = random.Random(1000 * split + seed)
        rows[name] = [row(t, label) for t, label in tickets(split, train if name == "train" else test, rng)]
    rng = random.Random(seed)
    rows["real"] = [row(lengthened(t, rng), label) for t, label in tickets(2, test, random.Random(2000 + seed))]
    turns = ("user", "assistant")
    rows["general"] = [
        {"messages": [{"role": role, "content": text} for role, text in zip(turns, pair, strict=True)]}
        for pair in GENERAL
    ]
    for name, items in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=84)
    parser.add_argument("--test", type=int, default=144)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.folder, train=args.train, test=args.test, seed=args.seed)


if __name__ == "__main__":
    main()
