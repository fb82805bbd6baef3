"""The plots of storyworld, one function each, and the grammar that tells them.

The letters have the same meaning as in `phrases`.
"""

from collections.abc import Callable

from tinygpt.components.datasets.storyworld.grammar import Entry, Grammar, Teller
from tinygpt.components.datasets.storyworld.phrases import (
    LIFE,
    MACROS,
    OPENING,
    PET_CODA,
    SIGHTS_SEEN,
    VARIANTS,
)
from tinygpt.components.datasets.storyworld.words import LEXICONS, NUMBERS

THEMES = """
    @surprise [It was|Today was|At last it was] {h}'s birthday, and {h.he} [hoped|wished|longed] \
for {c:COLORS.a} {x:TREASURES}.
    @newcomer <one_day> [somebody new|a new neighbor] [named|called] {f:NAMES} [moved in|came to \
live] [next door|across the street|around the corner|at the end of the road].
    @weather All week, {h} [could not wait|had hoped|had planned|had wanted] to {x:OUTINGS.plan} \
on [Saturday|Sunday|Friday].
    @night One [dark|cold|windy|still|long|black|stormy|moonless|chilly] [night|winter night\
|autumn night], {h} lay in bed with {h.his} {c:COLORS} {x:TREASURES}.
    @brave {h} was [never|hardly ever|not] [scared|afraid] of [spiders|the cold|mice|bees|ghosts\
|getting lost|tall trees|falling|storms], but {h.he} was [|very |so |a little |terribly |always \
][afraid|scared|frightened] of {e:FEARS}.
    @race <one_day> there was a [big|great|grand|famous|long] {r:RACES}.
    @sharing <one_day> {h.his} {g:FAMILY} gave {h.him} {x:BASKETS.a} with {n:MANY} <tasty> \
{y:TREATS} in it.
    @making <one_day> {h} [wanted|decided|planned] to make {x:CRAFTS.a} for {h.his} {g:FAMILY}.
    @quarrel {h} [had|owned] {c:COLORS.a} {x:TOYS}, and it was [the best toy|the nicest toy|the \
finest thing] [in the house|in the street|of all|around].
    @rescue <one_day> {h} put on {h.his} {c:COLORS} {x:CLOTHES} and <went> to {s1:STOPS}.
    @lost {h.His} [favorite|dearest|most precious] thing [in the whole world |]was {c:COLORS.a} \
{x:TREASURES}.
    @promise <one_day> {h.his} neighbor, {m:NEIGHBORS}, [had to go away|went on a trip|left town\
|went to the city|went to see {m.his} [sister|brother]] for [a week|ten days|three days|five days\
|a few days|two weeks].
    @visit <one_day> {h} [went|set out|got ready] to visit {h.his} {g:KIN} with {x:GIFTS.a}.
    @trade <one_day> {h} saw {c:COLORS.a} {x:TREASURES} in the [shop|window|cart|bag] of \
{o:TRADERS}.
"""


def lost(t: Teller) -> None:
    """A lost thing is found at one of the places where it was taken."""
    t.say("""
        [<H> took|<H> carried] it [everywhere|wherever {h.he} went|to every place], [even to bed\
|in sun and rain|day after day|and never let it go|up hills and down stairs].
        It was [a present|a gift] from {h.his} {g:FAMILY}, and [{h}|{h.he}] [loved|kept|took \
care of] it [very much|well|with all {h.his} heart|more than anything].
        Every [morning|night|day|evening], {h.he} [looked at|cleaned|talked to|played with\
|smiled at] it [for a long time|and felt <glad>|for a while|before doing anything else].
    """)
    t.para("""
        <one_day> {h} took the {x} along and <went> to {s1:STOPS}, where {h.he} {s1.did}.
        <one_day> {h} <went> to {s1:STOPS} with the {x} and {s1.did}.
    """)
    t.say(SIGHTS_SEEN)
    t.say("""
        [Then|Next|Later|After that] {h.he} <went> [on |]to {s2:STOPS} and {s2.did} [there \
|][until noon|for an hour|for a while|in the sun|all alone|with great joy|till it got late].
        [Then|Next|Later|After that] {h.he} <went> on to {s2:STOPS}, and <near_by>.
    """)
    t.say("""
        [At home|Back home|At the front door|On the way home], {h.he} [put|reached] a hand in \
{h.his} [bag|pocket]. The {x} was [gone|not there|missing]!
        But [at home|back home|when it was time to go|on the way home] {h.he} could not find the \
{x} [anywhere|at all]!
        When {h.he} came home, the {c} {x} was [gone|missing|lost|nowhere to be seen]!
    """)
    t.para("""
        "<ohno>!" <cried> {h}. "[My {x} is gone|I lost my {x}|Where is my {x}]!"
        {h} felt <sad>. {h.He} <wept:h>.
        <then>{h} [looked|searched] <spots>, but [it was no use|the {x} was not there]. {h.He} \
<wept:h>.
    """)
    t.say("""
        {h.His} <friend> {f:NAMES}, <outfit>, [saw|heard|noticed] it. "<ask_wrong>?" [{f} asked\
|asked {f}].
        [Just then|Soon], {h.his} <friend> {f:NAMES} came along <outfit>. "<ask_wrong>?" [{f} \
asked|asked {f}] <kindly>.
    """)
    t.say("""
        "I [lost|can't find] my [{c} |]{x}," {h} <said:f>[| <kindly>].
        {h} told {f.him} [everything|about the {x}|what had happened|the whole story].
    """)
    t.say("""
        "<dont_worry>," <spoke> {f}[| <kindly>]. "[We will|Let us|We can] go [back|again] to \
[every place|all the places where you were|each place]."
        "<hm>[Think|Try to think|Tell me]," <spoke> {f}[| <kindly>]. "Where [were you|did you go\
|have you been] [today|before]?"
        <then>{f} [took|held] {h.his} [arm|coat]. "<dont_worry>. [I will help you|We can find it\
|We will look together|Two can look better than one]," {f.he} <said:h>.
    """)
    where = t.para("""
        @first [So they|Together they|The two friends] <went> [back |]to {s1}. They [looked\
|searched] [high and low|everywhere|here and there|left and right|for a long time], and there it \
was, {s1.find}!
        @second [So they|Together they|The two friends] <went> [back |]to {s1}. They [looked\
|searched] [high and low|everywhere|here and there|left and right|for a long time], but [the {x} \
was not there|they did not see it|found nothing].
    """)
    if where == "second":
        t.say("""
            [Next|Then] they <went> to {s2}. {f} pointed. Something {c} [was lying|lay|was \
shining|was hiding] {s2.find}!
            "<hm>[Let us try|Now let us go to|We must look at] {s2}," <spoke> {f}[| <kindly>]. \
[And there|There], {s2.find}, [lay|was|sat] the {c} {x}!
        """)
    t.say("""
        "<yay>!" <cried> {h}. "<thanks>, {f}!"
        <then>{h} [picked it up|held it tight|hugged it|kissed it] and <joy>. "<thanks>," {h.he} \
<said:f>.
        {h} was <glad>. "[You are a true friend|You are the best friend of all|I would never \
have found it alone|What would I do without you], {f}," {h.he} said <kindly>.
    """)
    t.para("""
        <close> {h} [kept|carried|put] the {x} in a [safe|deep|warm|special] [pocket|bag|box], \
and [{f} was always welcome|looked twice before going home|it was never lost again|{f} could \
play with it, too].
        <night> {h} put the {x} [beside|next to|under] the pillow and [thought of {f}|fell \
asleep with a smile|said good night to it|dreamed of {s1}|dreamed of {s2}].
        They [went|walked] home [side by side|together|arm in arm|singing], and {h} held the {x} \
[tight|with both arms|close|very carefully] [all the way|until they were home|the whole time].
    """)


def rescue(t: Teller) -> None:
    """A small animal in trouble is helped; what kept it warm is there at the end."""
    t.say("""
        The [wind|air|morning] was [cool|fresh|chilly], and <near_by>.
        {h.He} {s1.did} and [listened|sang a song|looked around|rested a little], and <near_by>.
        It was [quiet|peaceful|pleasant] there. <H> {s1.did}.
    """)
    t.say(SIGHTS_SEEN)
    trouble = t.say("""
        @stuck <soon> {h.he} heard a [small|tiny|little|weak] [sound|cry|voice]. A [little|tiny\
|young|small] {a:CRITTERS} was stuck [in the mud|between two rocks|in a hole|under a fallen \
branch|in a net|behind a fence].
        @cold <soon> {h.he} [saw|found|noticed|spotted] a [little|tiny|young|small] {a:CRITTERS} \
[beside the path|under a bush|behind a log|near a wall|in the grass]. It was [wet|cold|wet and \
cold|shaking with cold].
        @lost <soon> a [little|tiny|young|small] {a:CRITTERS} came [out of the bushes|along the \
path|up to {h.him}|around the corner]. It [had lost its mother|was all alone|did not know the \
way home].
    """)
    if trouble == "stuck":
        t.say("""
            <then>{h} [pulled|pushed|dug] [and|and then] [pulled|pushed|dug] [with all {h.his} \
might|as hard as {h.he} could|for a long time|very carefully], and [at last|soon|finally] the \
{a} was free.
            "<hm>[Hold still|Wait|Be calm], I will [help|free] you," <spoke> {h}[| <kindly>]. \
{h.He} [worked|tried] [bit by bit|slowly|very gently], until the {a} [could move|came out|was \
free] [again|at last].
        """)
    elif trouble == "lost":
        t.say("""
            "<dont_worry>," <spoke> {h}[| <kindly>]. "We will [find|look for] your mother." \
{h.He} looked [for prints in the mud|in the bushes|behind every tree|down the path], and the {a} \
[followed|went along].
            <then>{h} [sat|knelt] down [slowly|softly|beside it] and [let it come|spoke in a low \
voice|sang to it], until the {a} was not [afraid|scared|so frightened] [any more|of {h.him}].
        """)
    else:
        t.say("""
            "<hm>You [need to|must] get [warm|dry]," <spoke> {h}, and {h.he} rubbed its [back\
|feet|head] [softly|gently|very carefully|for a while].
            <then>{h} [picked it up|lifted it|held it] [gently|carefully|very softly] and \
[breathed on its feet|dried it with some leaves|carried it out of the wind].
        """)
    t.say("""
        Then {h.he} took off the {c} {x} and [wrapped|tucked] the {a} [in it|up in it] [to keep \
it warm|like a baby|until only its head could be seen].
        It was [still |]shaking, so {h} [put|laid] the {c} {x} around it.
    """)
    t.para("""
        <then>{h} [carried|took|brought] the {a} home to {h.his} {g:FAMILY}. "[May it stay|Can \
we keep it|Can we help it|What does it eat]?" {h.he} asked.
        At home, {h.his} {g:FAMILY} [opened|came to] the door. "[Look|See], {g.call}!" said {h}[\
| <kindly>]. "I found a {a} [at|near] {s1}."
    """)
    t.say("""
        <then>{h} [gave it|brought it|found it] {e1:FOODS} and {e2:FOODS}, and all night {h.he} \
[sat|stayed|slept] [beside|next to|near] the {a}, [and sang to it|and told it stories|and the \
stove was warm|and the moon looked in].
        The {a} [ate|tried|sniffed at] {e1:FOODS} and {e2:FOODS} and fell asleep [in the box|by \
the stove|in a corner|beside the lamp].
    """)
    t.para("""
        Every time {h} wore the {c} {x}, {h.he} [thought of|remembered] the {a}, and [smiled|was \
glad|felt warm|wondered how it was].
        <close> when {h} went to {s1}, a {a} [came to say hello|ran to meet {h.him}|was there], \
and it [still knew|always looked for|liked to sniff at] the {c} {x}.
        {g.call} washed the {c} {x}, but {h} [found|kept] [one hair|a bit of fluff] on it, [and \
smiled|and was glad|to remember the {a}|and put it in a little box].
    """)


def sharing(t: Teller) -> None:
    """Treats are given away and the numbers add up."""
    t.say("""
        "<hm>[They are all for you|Do not eat them all at once|Eat them while they are fresh\
|Enjoy them|They are for you and your friends]," <spoke> {g.call}[| <kindly>].
        [They smelled|The {y} smelled|They looked] [so good|wonderful|sweet|delicious|very \
fine], and {h} [could hardly wait|was hungry|licked {h.his} lips|said thank you|danced a little \
dance].
        {h} counted [them|the {y}] [twice|with care|out loud|slowly]. There were [really |]{n}.
    """)
    t.para("""
        <then>{h} [took|carried] the {x} to {s1:STOPS}. {f:NAMES}, {h.his} <friend>, [was sitting\
|sat|was standing] there <outfit>, [alone|all alone|with a long face|looking tired].
        At {s1:STOPS} {h} met {h.his} <friend> {f:NAMES}. {f} [looked tired|was not smiling|had \
nothing to eat|looked pale|was very quiet].
    """)
    t.say("""
        "<ask_wrong>?" asked {h}. "I [have had no|forgot my|lost my|dropped my] [lunch|breakfast\
|food]," said {f} <kindly>.
        "I am [so|very|terribly] hungry," {f} <said:h>. "I [forgot|lost|dropped] my [lunch\
|breakfast|bread]."
    """)
    t.say("""
        "[Here|Look|Please], take {v:FEW} [of my |]{y}," {h} <said:f>. {f} <smile>. "<thanks>!"
        {h} gave {v:FEW} [of the |]{y} to {f}. "<yay>! <thanks>!" said {f} [with a full mouth\
|and took a bite|and ate them fast].
    """)
    t.para("""
        On the way home, [they|the two friends] [met|saw|ran into] {m:NEIGHBORS} <outfit>, who \
[was carrying a heavy bag|was painting a fence|had a bad cold|was looking for a cat|was sweeping \
the path|had hurt {m.his} foot]. {h} gave {m.him} {w:FEW} {y}[, too| from the {x}| as well].
        Then [they met|there came|along came] {m:NEIGHBORS}[, tired from work|, wet and cold|, \
with a little dog|, out of breath|]. "[Would you like|Do you want|Please have] some {y}?" asked \
{h}, and gave {m.him} {w:FEW}.
    """)
    left = int(t.env["n"].forms["n"]) - int(t.env["v"].forms["n"]) - int(t.env["w"].forms["n"])
    t.env["left"] = Entry({"": NUMBERS[left]})
    t.say("""
        "[You are very kind|How good of you|What a treat|Bless you|You made my day]," <spoke> \
{m}[| with a smile| and took a bite| and waved].
        {m} <smile:m>. "[I was hungry|These are my favorite|How sweet|They are so good]!" {m.he} \
said.
    """)
    t.para("""
        At home, {g.call} [looked in|opened|peeked in] the {x}. "[Only|Just] {left} {y}? [Did \
you eat the rest|Where are the others|Who ate the rest]?" {g.he} asked.
        {h} came home with {left} {y}. "[What happened to the rest|Where are the others|Did you \
drop some]?" asked {g.call}.
    """)
    t.say("""
        "{f} got {v} and {m} got {w}," <spoke> {h}[| proudly| softly| and blushed].
        "I gave {v} to {f} and {w} to {m}," <spoke> {h}[| proudly| softly| and smiled].
    """)
    t.para("""
        [Together they|Then they|So they|The two of them] ate the last {left} {y}, and soon the \
{x} was empty, but {h} [had never felt so rich|felt <glad>|was <glad>].
        [The next day|A week later|The next morning], the {x} stood [at the door|on the steps|by \
the gate]. {f} had filled it with [berries|flowers|nuts|shells|chestnuts|daisies|candy] for {h}.
        <night> {h} [put|set] the {x} on the shelf. It was [almost |]empty, but {h.he} [had two \
happy friends|felt <glad>|was <glad>|did not mind at all|fell asleep with a smile].
    """)


def brave(t: Teller) -> None:
    """A child overcomes a fear with a small thing to hold."""
    t.say("""
        [The others|All the others|Everybody else|{h.His} friends] [liked it|laughed about it\
|were not afraid|called {h.him} names], but {h} [always ran away|stayed behind|only watched\
|shook {h.his} head|hid behind a tree|felt {h.his} knees shake].
        [Just to think of it|The mere thought] made {h.him} [shiver|shake|tremble|feel cold|want \
to hide|hold {h.his} breath].
    """)
    t.para("""
        <one_day> {h.his} {g:FAMILY} gave {h.him} {c:COLORS.a} {x:CHARMS}. "[Hold it|Keep it in \
your pocket|Take it along|Squeeze it] [when you are scared|and count to {n:COUNTS}|and take \
{n:COUNTS} deep breaths]," {g.he} said <kindly>.
        <one_day> {h.his} {g:FAMILY} [took|pulled] something out of a [drawer|box|pocket|bag]. \
It was {c:COLORS.a} {x:CHARMS}. "[It helped me|It gave me courage|I held it] when I was [small\
|little|your age]," {g.he} <said:h>.
    """)
    t.say("""
        There was [also |]{t4:TRIFLES.a} in {h.his} [pocket|bag], and {t5:TRIFLES.a}, but the \
{x} [was best|was special|lay on top|had its own corner|was dearer to {h.him}].
        {h} [put it|laid it|kept it] [beside|next to|together with] {t4:TRIFLES.a}, \
{t5:TRIFLES.a} and {t6:TRIFLES.a}.
    """)
    t.say("""
        The [very |]next [day|morning|afternoon|evening], {h.his} <friend> {f:NAMES} [called\
|came running|knocked]. "[Come quick|Come along|Hurry up]! [Today|This time|Now] I will \
{e.dare}. [Will you, too|Are you coming|Do you dare]?"
        [Soon|A few days later|The next Sunday|One evening], {f:NAMES}, {h.his} <friend>, asked, \
"[Will you|Would you|Do you want to] {e.dare} with me? [I don't want to go alone|I am scared, too\
|It is no fun alone|Nobody else will come]."
    """)
    t.say("""
        {h}'s heart [beat fast|went boom, boom|jumped|was beating like a drum|sank]. {h.He} [went\
|walked|came] as far as {e.first} and stopped.
        <then>{h} [went|walked|came] to {e.first}. {h.His} knees [shook|felt weak|were like \
jelly], and {h.his} mouth was dry.
    """)
    t.say("""
        Then {h.he} [felt|touched|held|squeezed] the {x} and [took a deep breath|closed {h.his} \
eyes|thought of {g.call}|counted slowly|stood up straight].
        {h.He} [held|squeezed|rubbed] the {x} [tight|hard|in {h.his} fist]. "[I can do it|I am \
brave|One, two, three|Here I go|Now or never]," {h.he} [whispered|said to the wind|told {f}].
    """)
    t.say("""
        [Step by step|Slowly|Very slowly|Bit by bit|All at once|With a shout|Without a word], \
{h} {e.did}. [It was not so bad|It was easy|Nothing bad happened|It was even fun|It was over in \
a moment]!
        And then {h.he} did it: {h} {e.did}! "<yay>!" <cried> {f}.
    """)
    t.para("""
        At home, {h} [wanted to give|gave|tried to give] the {x} back. "<hm>[Keep it|Give it to \
somebody who needs it|You don't need it now]," <spoke> {g.call}[| <kindly>]. "[The courage was \
yours|You were brave all by yourself|It was never magic]."
        <night> {h} [put|laid] the {x} [on the shelf|beside the bed|in a small box|on the \
table]. [Tomorrow|One day] {h.he} would [give|lend|show] it to [{f}|somebody who was scared].
        <close> {h} was [never|no longer|not] [scared|afraid] of {e}, and the {x} [stayed at home\
|lay in a drawer|hung on a string by the window|went to {f}, who was afraid of cows].
    """)


def making(t: Teller) -> None:
    """A present is made, breaks, is mended and is used at the end."""
    t.say("""
        It was [almost |nearly |]{g.his} birthday[| and time was short], and {h} had [no money\
|only one coin|an idea|a plan].
        {g.call} had been [sick|tired|sad|working hard] [all week|for days|lately], and {h} \
wanted to [cheer {g.him} up|make {g.him} smile|do something nice].
        "It will be [a surprise|a secret|the best gift]," {h.he} [thought|said to the cat\
|whispered|told the mirror].
    """)
    t.say("""
        {h.His} <friend> {f:NAMES} [came to help|wanted to help|knew how to do it|had made one \
before].
        {h.He} [asked|called|went to] {h.his} <friend> {f:NAMES}. "Can you [help|show] me?" "[Of \
course|Yes|Sure|With pleasure|Gladly]!" said {f}[| <kindly>].
    """)
    t.para("""
        [First|To begin], they [found|got|bought|gathered|looked for] {x.from} and {x.tool}.
        They [needed|took] {x.from}, and {f} [brought|found|had] {x.tool}.
    """)
    t.say("""
        {h} {x.first}, and {f} [watched|helped|held everything still|sang a song|told jokes|read \
the steps from a book].
        [Then|So|Next] {h} {x.first} [with great care|very slowly|just like {f} said|twice, to \
be sure|humming a tune].
    """)
    t.say("""
        [Around them lay|There lay|The table was covered with] {t4:TRIFLES.a}, {t5:TRIFLES.a} \
and {t6:TRIFLES.a}, and it smelled of {o1:SMELLS} and {o2:SMELLS}.
        They [sang songs|told stories|talked] about {e1:DREAMS} and {e2:DREAMS}, and ate \
{e3:FOODS} and {e4:FOODS}.
    """)
    t.para("""
        But [then|oh|when it was done|at the end] the {x} {x.flaw}. "<ohno>!" <cried> {h}. "[It \
is ruined|It is spoiled|Now it is ugly|We must start again|All that work]!"
        But [then|when they looked|a little later|at the last moment] the {x} {x.flaw}. {h} \
<wept:h>.
    """)
    t.say("""
        "<dont_worry>," <spoke> {f}[| <kindly>]. "[We can fix it|I have an idea|Nothing is \
perfect|We are not done yet]." [So|And so|Together] they {x.mend}.
        <then>{f} [thought|looked at it|walked around it|scratched {f.his} head] [for a moment\
|for a while|and smiled]. "[I know|Let us try this|Look]!" {f.he} said, and they {x.mend}.
    """)
    t.para("""
        <soon> {g.call} [came in|came home|opened the door|walked in]. "[For you|This is for you\
|Surprise|We made it for you|Close your eyes]!" said {h}, and [showed|gave] {g.him} the {x}.
        [In the evening|The next morning|After supper|At last], {h} [gave|brought|showed] \
{h.his} {g} the {x}. "[I made it for you|It is a bit funny|We made it, {f} and I]," {h.he} said \
<kindly>.
    """)
    t.say("""
        {g.call} [had tears in {g.his} eyes|could not believe it|was <glad>|hugged them both\
|clapped and laughed|did not know what to say].
        "[What a beautiful|What a charming|I never had such a] {x}!" said {g.call}, and <smile:g>.
    """)
    t.para("""
        [Right away|Then|That same day|At once|With a smile], {g.call} {x.use} the {x}, and they \
had {e1:FOODS} and {e2:FOODS}, and [all three were <glad>|it was a fine day|they talked until \
late|{f} stayed for supper|they sang a song|{h} felt <glad>].
        <night> {g.call} {x.use} the {x}. "[It is the best gift of all|I will never forget it|A \
gift from the heart is the best]," {g.he} said <kindly>.
    """)


def weather(t: Teller) -> None:
    """Rain spoils a plan until the sun comes back."""
    t.say("""
        {h.He} [put|set] the {c:COLORS} {x} [by the door|beside the bed|in the hall|next to the \
boots|where {h.he} could see it] [and counted the days|and checked it twice|and dreamed of it\
|the night before].
        The {x} was [{c:COLORS}|new and {c:COLORS}|old and {c:COLORS}], and {h} [dreamed|talked\
|sang|thought] of nothing else.
    """)
    t.para("""
        But when the [day|morning] came, [dark|gray|black|heavy] clouds [hung|stood|gathered\
|rolled in] over the [roofs|hills|trees|town], and it began to [rain|pour].
        But that [day|morning] it [rained|poured], and [the wind blew|thunder rolled|the streets \
were like rivers|the windows rattled|the water ran down the glass|even the ducks stayed at home].
    """)
    t.say("""
        "<ohno>!" said {h}[| <kindly>]. "Now we [can't|can never|will not] {x.plan}! [I hate rain\
|It is not fair|Why today|What a bad day|Stupid rain]!"
        <then>{h} [stood at|looked out of|sat by] the window and <wept:h>. "[Rain, rain, go away\
|It is not fair|Why must it rain today|The whole day is spoiled]," {h.he} said.
    """)
    t.say("""
        {h.His} {g:FAMILY} [saw|heard] it. "<dont_worry>," {g.he} <said:h>. "[We can't stop the \
rain, but we can have fun|There is a lot to do inside|Let us play until it stops|A rainy day is \
a good day, too]."
        "[The flowers need rain|After rain comes sun|Rain does not last|Clouds move on]," said \
{h.his} {g:FAMILY}. "[Until then|Meanwhile|For now], let us [stay in and play|have fun inside\
|think of something]."
    """)
    t.para("""
        So they [played|tried|took out|chose|began with] [a game of cards|a big puzzle|a box of \
old hats|the puppets|the finger paint|the wooden blocks|a game of marbles|a board game], and \
[later|then|after that] they <games>. [It was fun|{h} laughed again|They laughed a lot|The hours \
flew by].
        {g.call} [brought|made] {e1:FOODS} with {e2:FOODS}, and they <games>. [It was fun|{h} \
laughed again|Soon {h} felt better|Time flew].
    """)
    t.say("""
        [The sun|A bit of sun] [broke|came out|peeked] through [the clouds|a gap in the clouds], \
and a [big|bright|huge|lovely] rainbow [stood|appeared|shone] over {x.place}.
        The sky was [blue|clear|bright] [again|once more], and [everything smelled fresh|the \
puddles shone like mirrors|a rainbow stood over {x.place}|birds began to sing|the snails came out].
    """)
    t.para("""
        "[Quick|Hurry|Come|Boots on]!" said {g.call}[| <kindly>]. They took the {c} {x} and \
<went> to {x.place}.
        <then>{h} [grabbed|picked up|fetched] the {c} {x} [at once|from its place|with both \
arms]. They put on their boots and <went> to {x.place}, [right through|around] the puddles.
    """)
    t.para("""
        [There|And there] the {x} {x.did}, and [they stayed until dark|the wet grass shone\
|{g.call} clapped|nobody minded the mud|they forgot the time|all the world looked new].
        [Soon|At last] the {x} {x.did}, and {h} [laughed|sang|smiled] [all the way home|until \
the stars came out|in the last light of the day].
    """)


def surprise(t: Teller) -> None:
    """A birthday that everybody seems to forget."""
    t.para("""
        But [nobody was there|the kitchen was empty|the room was dark|all was quiet]. There was \
[no cake|only cold milk|only old bread], and [no song|no candle|no balloon|no card].
        {h.His} {g:FAMILY} [was busy|was reading|was on the phone|was washing the floor|was in a \
hurry]. "[Good morning|Oh, hello|Eat your bread]," {g.he} said, and [that was all|nothing more\
|looked away].
    """)
    t.say("""
        So {h} <went> to {h.his} <friend> {f:NAMES}. "[Can you play|Do you know what day it is\
|Shall we go out]?" {h.he} asked.
        On the [street|corner|stairs] {h.he} met {h.his} <friend> {f:NAMES}. "[Hello|Hi], {f}! \
[Do you know what day it is|Will you play with me|Do you have time today]?"
    """)
    t.say("""
        "<hm>[I have no time|I am busy|Sorry, I can't|Not now]," <spoke> {f}[| <kindly>]. \
"[Maybe tomorrow|I must clean my room|I have to go home|I must help my aunt]." And {f.he} ran \
[off|away|home].
        <then>{f} [turned red|hid something behind {f.his} back|looked at {f.his} shoes\
|coughed]. "[I must go|I can't today|Maybe later]," {f.he} said, and ran [off|away|home].
    """)
    t.para("""
        [Late in the day|When it got dark|In the evening|At five|At last], {h.he} <went> home. \
[The house was dark|All the lights were off|It was very quiet|There was no sound]. {h} opened \
the door.
        [Late in the day|When it got dark|In the evening|At five|At last], {h} came home, [slow \
and tired|cold and tired|with a heavy heart|kicking a stone]. [Strange|How odd]! The door was \
[open|not locked|covered with paper stars].
    """)
    t.say("""
        "Surprise!" The lights went on, and {f}, {q1:NAMES}, {q2:NAMES} and {q3:NAMES} [jumped up\
|came out|stood there], with {f} [in front|in the middle|in a funny hat|on a chair].
        [Click|Pop|Bang]! "Surprise! [Happy birthday|Best wishes|A happy birthday to you], {h}!" \
<cried> {f}, {q1:NAMES}, {q2:NAMES} and {q3:NAMES}.
    """)
    t.say("""
        There were [balloons|flowers|paper chains|candles|lanterns|flags] [everywhere|on every \
wall|up to the roof], and a [big|huge|tall|lovely|round] [chocolate|apple|lemon|cherry|nut|carrot\
|honey|cream] cake.
        The [table|room|hall] was full of {e1:FOODS}, {e2:FOODS} and {e3:FOODS}, and somebody \
[played the flute|beat a drum|sang|danced on a chair].
    """)
    t.say("""
        <then>{f} [gave {h.him}|held out|brought|handed {h.him}] a [small|big|square|round|heavy\
|light] [box|parcel] [with a bow|in gold paper|tied with string|with a card on it]. {h} [opened\
|unwrapped|tore open] it [slowly|at once|with shaking fingers|very carefully].
        Then {h} [opened|unwrapped] the present from {f} [slowly|at once|with care|while all \
were watching].
    """)
    t.para("""
        [Inside was|In it lay|Out came] the {c} {x}! "<yay>!" <cried> {h}, and [hugged {f}\
|hugged everybody|<joy>|felt <glad>].
        It was {c.a} {x}, [just as {h.he} had wished|just what {h.he} wanted|the very one\
|exactly like in {h.his} dreams]. [It was the best birthday of all|What a birthday it was|{h} \
was <glad>].
    """)


def promise(t: Teller) -> None:
    """A promise to water a plant is kept, though a friend calls."""
    t.say("""
        "[Will you|Can you|Could you] water my {x:PLANTS} [every day|each morning|each \
evening]?" {m.he} asked. "[It is very thirsty|It dies without water|It means a lot to me|I grew \
it from a seed]."
        {m.He} had {x:PLANTS.a} that [needed|had to have] [a lot of |fresh ]water every day. \
"[Will you take care of it|Can you look after it|Can I count on you]?" {m.he} asked.
    """)
    t.say("""
        "[I promise|Yes, I promise|You can count on me|I will, I promise]," <spoke> {h}[| proudly\
| at once| with a nod].
        <then>{h} [nodded|gave {h.his} word|thought of the hot days]. "[I will not forget|Not \
one day without water|A promise is a promise|I will do my best]," {h.he} said.
    """)
    t.para("""
        On the first day, {h} [filled|took|fetched] a [can|cup|jug|bucket|bottle] and watered \
the {x} [with care|drop by drop|right after breakfast|and sang to it|and told it a story].
        Every morning, {h} <went> over with a [can|cup|jug|bucket|bottle] and watered the {x} \
[with care|and talked to it|and sang to it|and looked for bugs].
    """)
    t.para("""
        [On the third day|Then one day|One afternoon|On the second day], {h.his} <friend> \
{f:NAMES} came running <outfit>. "[Come|Let us go|Come with me] to {s1:STOPS}! [Everybody is \
there|It is such fun|There are puppies there|There is a clown there]!"
        [On the third day|Then one day|One afternoon|On the second day], {f:NAMES}, {h.his} \
<friend>, [called|knocked|shouted over the fence]. "[There is a party|There is music|There is a \
circus] at {s1:STOPS}! [Come now|Hurry|Be quick]!"
    """)
    help_ = t.say("""
        @yes "<hm>[I can't|Not yet|Wait a little]," <spoke> {h}[| <kindly>]. "I [made a promise\
|gave my word|must keep my promise|have to water the {x} first]." "Then I will help you," {f} \
<said:h>[| with a smile| at once].
        @no "<hm>[You can do it tomorrow|It is only a plant|Nobody will know|Forget the plant]," \
<spoke> {f}[| <kindly>]. But {h} [shook {h.his} head|stayed|said no]. "[I would know|A promise \
is a promise|It is thirsty now]."
    """)
    if help_ == "yes":
        t.say("""
            [Together they were done soon|It took no time|They carried the water together], and \
then they <went> to {s1} and {s1.did}.
            <then>{f} [brought|carried] the water, and {h} [watered|gave it to] the {x}. [Then\
|Later] they <went> to {s1} and {s1.did} [until dark|until supper|and laughed a lot].
        """)
    else:
        t.say("""
            So {f} went [off|away] alone, and {h} watered the {x}, [though|but] {h.he} felt <sad>.
            <then>{f} [shrugged|sighed] and left. [Later|Afterward|When the {x} had enough \
water], {h} <went> to {s1}, too, and {s1.did}.
        """)
    t.para("""
        [At last|In the end|Then] {m} came [back|home] <outfit>, with {t4:TRIFLES.a} and \
{t5:TRIFLES.a} for {h}. {m.He} [ran to|went to see|looked at] the {x} [and smiled|first of all\
|at once].
        [The day came when|At last] {m} was home again. "[How is|Is it alive,|What about] my \
{x}?" {m.he} [asked|called].
    """)
    t.say("""
        That [very |]morning it [had grown a lot|had got new leaves|was as green as could be], \
and it {x.gave}! "<yay>!" <cried> {m}.
        It {x.gave}! {m} [could not believe it|clapped|stood there with an open mouth|was <glad>].
    """)
    t.para("""
        {m} gave {h.him} [some|three|two|a handful] of the {x.part}, and [whenever|each time] \
{h} saw {x.a}, {h.he} [smiled|thought of the promise|was proud].
        As a thank-you, {h} got a [small|little|baby|young] {x} in {c:COLORS.a} pot, and \
[watered it every day|took it home with great care|gave it a name|{f} came to see it].
        <close> {h} [could|was free to] visit the {x} [whenever {h.he} liked|every day|with \
{f}], and [{m} told everybody|the whole street knew|everybody knew] that {h} keeps {h.his} \
promises.
    """)


def visit(t: Teller) -> None:
    """A gift is carried to a family member, with small dangers on the way."""
    t.say("""
        {g.call} lived [far away|on the other side of the hills|in the next town|near {p2:PLACES}\
|a long way off], and [they had not met for months|{h} missed {g.him}|{h} was <glad>|{g.he} was \
all alone].
        {h} had [made|picked|packed] it [with love|all alone|that morning|with great care], and \
[it looked fine|nobody was to touch it|{h.he} carried it like an egg|{h.he} was proud].
    """)
    t.say("""
        {h.He} took the {r:RIDES} and sat [by the window|in the last row|beside a man with a \
parrot|next to a nice lady|behind a sleeping man], with the {x} [in {h.his} lap|in a bag|in both \
arms|under a cloth].
        Soon {h.he} sat in the {r:RIDES}, and [fields|houses|cows|trees|hills|gardens] and \
[rivers|barns|bridges|sheep|windmills|chimneys] [flew by|went past|slid by].
    """)
    t.say(SIGHTS_SEEN)
    t.para("""
        [On the way|Halfway there|After an hour|At the first stop], [somebody|a small boy|an old \
lady|a tall man|a girl with a dog] asked, "[What do you have there|Is that for me|Who is that \
for]?" "<hm>[It is|This is] for my {g}," <spoke> {h}[| <kindly>].
        [Suddenly|Halfway there|After an hour|At a bend], the {r} [stopped|shook|jumped|bumped] \
so hard that [hats fell down|a baby woke up|everybody cried out]. {h} held the {x} [tight|high up\
|close].
    """)
    danger = t.say("""
        @goose A [big|white|fat|loud] goose [stood in the way|hissed at {h.him}|wanted the {x}]. \
{h} [stood still|did not run|stayed calm|said hello], and [it let {h.him} pass|it walked off|at \
last it went away].
        @wind A [strong|sudden|cold] wind [came up|blew] and nearly [took|carried off|swept \
away] the {x}. {h} [held on|turned {h.his} back to it|hid behind a wall|bent down low] until it \
was [over|still].
        @fork There were two [paths|roads], and {h} did not know [which to take|the way]. [A \
farmer|An old man|A woman with a goat|A mailman] [pointed|showed {h.him}] to the [left|right]. \
"<thanks>!" said {h}[| <kindly>].
    """)
    t.para("""
        And there stood the [little |old |]house, [with smoke above the roof|with roses on the \
wall|with {c:COLORS.a} door|with an open window|behind three tall trees]. {h} [knocked|rang the \
bell|called].
        <soon> {h.he} saw the [red roof|garden|chimney|open gate] and began to run. [Knock, knock\
|Ding-dong|Bang, bang]!
    """)
    t.say("""
        The door [opened|flew open]. "{h}! [What a surprise|How you have grown|Come in|I am so \
glad to see you]!" <cried> {g.call}, and [hugged|kissed] {h.him}.
        "Who is there?" asked {g.call}. "It is [only |]me, {h}!" {g.He} opened the door [with a \
smile|and laughed|in {g.his} slippers] and hugged {h.him}.
    """)
    if danger == "goose":
        t.say("""
            "[Did you meet|You got past] the goose?" asked {g.call}. "<hm>[I was not afraid|It \
only wanted to talk|We are friends now|It was louder than the {r}]," <spoke> {h}[| <kindly>].
        """)
    elif danger == "wind":
        t.say("""
            "[You came in this wind|You walked through the wind]?" said {g.call}[| <kindly>]. \
"[You are strong|You might have blown away|You are a hero]!" {h} [laughed|smiled|blushed|was \
<glad>].
        """)
    else:
        t.say("""
            "And [you found|did you find] the way [alone|all alone]?" asked {g.call}. "[Almost|I \
asked|Somebody kind helped me]," <spoke> {h}[| and laughed].
        """)
    t.say("""
        They had {e1:FOODS} with {e2:FOODS} and {e3:FOODS} and [talked|laughed|played cards\
|looked at old pictures|sang old songs|told stories] [until dark|all afternoon|by the fire|in \
the garden|for hours].
        In the [garden|yard|orchard], {g.call} [showed {h.him}|let {h.him} see|told {h.him} all \
about] [the bees|the hens|the old tree|a bird's nest|the new goat|the cabbages], and {h} [asked \
a lot|helped|listened|wanted to stay].
    """)
    t.para("""
        When {h} [left|went home|said goodbye], the {x} [was|stood|had its place] [on the table\
|by the window|in the best spot|where all could see it]. "[Come back soon|Write to me|Next time \
I will come to you]!" said {g.call}.
        <night> {g.call} [looked at|smiled at] the {x} [and thought of {h}|once more|with love], \
while {h} [slept|dreamed|told the whole story] [on the way home|in the {r}|back home].
    """)


def newcomer(t: Teller) -> None:
    """A shy newcomer becomes a friend."""
    t.say("""
        {f} came <outfit>, and [had|carried|held|brought] {c:COLORS.a} {x:TOYS} but [nobody to \
play with|no friends there|not one friend in town|nobody to share it with].
        <then>{f} [sat|stood] [on the steps|by the fence|in front of the house|under a tree] \
with {c:COLORS.a} {x:TOYS} and [looked sad|looked lonely|did not smile|said nothing|watched the \
others].
    """)
    t.para("""
        [The next day|On the second day|Later that day], {h} took [a deep breath|two {y:TREATS}\
|some {y:TREATS}|{h.his} hat|a flower] and <went> over. "[Hello|Hi|Good morning]. [I am|My name \
is] {h}," {h.he} said <kindly>.
        [The next day|On the second day|Later that day], {h} <went> [over|across the grass|to \
the gate] and stopped. "[What is your name|Are you new here|May I sit with you|Is that yours]?" \
{h.he} asked.
    """)
    t.say("""
        {f} looked [up|at {h.him}|down]. "[Hello|Hi]. I am {f}," {f.he} <said:h>. "[I am new here\
|I don't know anybody|We came from far away|I miss my old home]."
        "[I am|My name is] {f}," {f.he} <said:h> <kindly>. "[Everything is strange here|My old \
friends are far away|Our old house was near {p2:PLACES}]."
    """)
    t.say("""
        "[Do you want to play|Shall we play|Would you like to play|Can I play with you]?" asked \
{h}. {f} <smile:f>. "[Yes, please|I would love to|Oh yes|But of course]!"
        "<hm>[That must be hard|I was new once, too|Now you know me|You will like it here]," \
<spoke> {h}[| <kindly>]. "[Let us play|Come and play|Will you play with me]!" {f} <smile:f>.
    """)
    t.para("""
        They [played|took turns|had fun] with the {c} {x} [all morning|until lunch|for hours|in \
the yard], and later <games>.
        <then>{f} [let {h} try|showed {h}|lent {h}] the {c} {x}[| first| for a while| at once]. \
"[It is more fun|I like it more|It is much nicer] [with two|together]," {f.he} said.
    """)
    t.say("""
        [Later|On the way], they met {m:NAMES}, {h}'s <friend>. "This is {f}," <spoke> {h}[| \
<kindly>]. "[Come and play with us|{f.He} is new here|{f.He} is very funny|You will like {f.him}]."
        {m:NAMES}, {h}'s <friend>, [came along|joined them|wanted to play, too], and soon [all \
three|the three of them] [were laughing|were friends|played tag|built a dam|ran home].
    """)
    t.para("""
        [The next morning|The next day], the {c} {x} [stood|was] at {h}'s door with a [note|card\
|letter]. "[For my first friend here|Let us share it|Today it is your turn]," it said.
        <close> {h} and {f} [played|met|laughed] together [every day|after breakfast|rain or \
shine], and the {c} {x} [belonged to both|was always there|got a scratch or two].
        <night> {h} [told {h.his} cat|wrote in a book|told the moon] about {f} and the {c} {x}, \
and [was <glad>|fell asleep|smiled|yawned].
    """)


def trade(t: Teller) -> None:
    """A chain of swaps: what each one wants is what the next one gives."""
    t.say("""
        "<hm>[I don't need money|Never mind money|Keep your pennies|Money is no use to me]," \
<spoke> {o}[| <kindly>]. "[Bring me|Get me|Give me] {b:TRADERS.gives}, and [the {x}|it] is yours."
        "You can have the {x} for {b:TRADERS.gives}," said {o} <kindly>. "[That is fair|I need \
it badly|What do you say]."
    """)
    t.para("""
        [So|Then|At once] {h} <went> to {b}. "[May I have|Can I get|Would you give me] {b.gives}[\
|, please]?" {h.he} asked.
        <then>{h} <went> [straight |]to {b} and asked for {b.gives}.
    """)
    t.say("""
        "[You must trade for it|Nothing is free|I can't give it away]," <spoke> {b}[| with a \
smile| and laughed]. "But I would [love|like|take] {a:TRADERS.gives} [for it|in return]."
        {b.A} [thought|scratched {b.his} head|looked {h.him} up and down]. "[Bring me|Get me] \
{a:TRADERS.gives}, and we [can trade|have a deal]," {b.he} said.
    """)
    t.say(SIGHTS_SEEN)
    t.say("""
        [So|Then] {h} <went> [on |]to {a}, who [was|sat|stood] [in front of the door|in the yard\
|in the sun] <outfit>.
        [So|Then] {h} [looked for|ran to] {a} and found {a.him} [near|at] {s1:STOPS}.
    """)
    t.say("""
        "[I will give you|You get|I can spare] {a.gives}," said {a}, "if you [give|bring|get] me \
{y:FINDS.a}. [Mine is broken|I lost mine|Mine is too old|I have been looking for one]."
        {a.A} [was looking for|needed|had lost] {y:FINDS.a}. "[Find me one|Bring me one|I must \
have one], and I will give you {a.gives}," {a.he} <said:h>.
    """)
    t.para("""
        <then>{h} [jumped|laughed|smiled|had an idea]. There was {y.a} [at home|in the shed|in \
the attic|in the cellar], and [nobody used it|nobody needed it|{h.his} {g:FAMILY} said yes]! \
{h.He} [got|fetched] it [quickly|at once|in no time].
        "[I have one|We have one at home|I know where one is]!" said {h}[| <kindly>]. {h.He} ran \
home, asked {h.his} {g:FAMILY}, and came back with the {y}.
    """)
    t.say("""
        So {a} got the {y}, and {h} [got|took|was given] {a.gives}.
        {h} gave the {y} to {a} and [got|took|was given] {a.gives}. "[Good luck|A fair trade\
|Here you are]!" {a.he} said.
    """)
    t.say("""
        {b.A} was [happy|glad] [about|to have] the {a.thing} and gave {h.him} {b.gives}.
        [Next|Then] {h.he} [brought|carried|took] the {a.thing} to {b} and [got|took|was given] \
{b.gives}. "<hm>[How quick you are|Well done|You are good at this]," <spoke> {b}[| <kindly>].
    """)
    t.say("""
        [At last|In the end|Before sunset|Quite out of breath], {h} [came back|ran|returned] to \
{o} and [held up|held out|put down] the {b.thing}. "[Here it is|I got it|I did it]!" {h.he} said.
        "[Back so soon|You did it|Did you get it|What do you have there]?" asked {o}, and [took\
|looked at] the {b.thing}. "[It is just right|Very good|A deal is a deal]."
    """)
    t.para("""
        So {h} [got|was given|went home with] the {c} {x}, and [four people were <glad>\
|everybody had what they needed|{h.he} was <glad>|{h.he} did not need one penny]. [All that|And \
it was all] for an old {y}!
        "<hm>[The {x} is yours|Here is your {x}|Take your {x}]," <spoke> {o}[| <kindly>]. {h} \
[hugged it|ran home with it|held it up to the sun] and was <glad>. It had [cost only|begun with] \
an old {y}!
    """)


def night(t: Teller) -> None:
    """A strange sound in the dark turns out to be harmless."""
    t.say("""
        {h.He} [could not sleep|was still awake|was almost asleep|had just closed {h.his} eyes]. \
[The clock ticked|The house was quiet|The hall was dark|All the lights were out|It was late].
        {h.His} {g:FAMILY} had [sung a song|told a story|kissed {h.him} good night|read a book], \
and [the house was quiet|all the lights were out|the door was closed].
    """)
    t.para("""
        [Then|Suddenly|All at once], there was a [strange|soft|funny|spooky|new] sound: \
{n:SOUNDS}! {h} [sat up|held {h.his} breath|opened {h.his} eyes|pulled up the blanket|listened].
        [What was that?|Hush!|Oh!|Listen!] {n:SOUNDS.again}, it went. {h} [sat up|held {h.his} \
breath|pulled up the blanket|felt a chill].
    """)
    t.say("""
        "[Is it a ghost|Is it a monster|Is somebody there|Who is there|Is it a thief]?" {h.he} \
[whispered|asked the dark|asked the {x}]. {h.He} [held|hugged|squeezed] the {x} [tight|hard].
        {h.He} was <scared>. {h.He} [held|hugged|squeezed] the {x} and [counted to ten|thought \
of the sun|did not move|hid under the pillow|waited].
    """)
    t.para("""
        [At last|Then|In the end], {h} [called|shouted for|went to wake] {h.his} {s:FAMILY}. "[I \
heard something|There is a monster|I am afraid|Something is there]!" {h.he} said.
        <then>{h} [got out of bed|put on {h.his} slippers|took a lamp] and <crept> [down the hall\
|over the floor] to {h.his} {s:FAMILY}. "[Wake up|Do you hear that|Please come]!" {h.he} whispered.
    """)
    t.say("""
        "<hm>[Let us look|Let us find out|Let us go and see]," <spoke> {s.call}, and [lit a lamp\
|took {h.his} arm|yawned|put on a coat]. "[Most monsters are small|Things are smaller in the \
light|I am with you|Bring the {x}, to be safe]."
        {s.call} [listened|sat up|yawned]. "[Hm|Oh|Yes], I hear it, too," {s.he} said. "[Come, \
we will look|Let us see what it is|Now I want to know]." {h} nodded[| and held the {x}| bravely].
    """)
    t.say("""
        They <crept> [through the hall|past the kitchen|from room to room|down the stairs] and \
looked <spots>.
        [Side by side|Slowly|Without a sound], they <crept> [through the hall|from room to room\
|down the stairs] and [looked around|listened|stopped at each door].
    """)
    t.say("""
        {n.again}! [There it was|And then they saw it]. It was [no monster|no ghost]. It was \
[only |just ]{n.cause}, [and it|which] {n.did}!
        {s.call} held up the lamp and [laughed|smiled|pointed]. It was {n.cause}! It {n.did}.
    """)
    t.say("""
        They [drank|had] [warm milk|a cup of tea|some water|honey milk] with {e1:FOODS} and \
{e2:FOODS}, and [the clock struck two|{s.call} told a joke|{h} yawned|nobody was afraid].
        "[Now back to bed|Time to sleep|Off to bed|Good night, brave one]," said {s.call} <kindly>.
    """)
    t.para("""
        [Soon|In bed|Back in bed], {h} [put|laid] the {c} {x} on the pillow. "[Don't be afraid\
|Sleep well|Did you hear|No more fear]," {h.he} [told it|whispered], "it was only {n.cause}."
        <then>{h} [lay|snuggled] down [again|once more] with the {c} {x}. {n.again}, it went, \
[soft|far away|like a song], and {h.he} dreamed of {e1:DREAMS} and {e2:DREAMS}.
    """)


def race(t: Teller) -> None:
    """Helping a rival costs the race and wins something better."""
    t.say("""
        The [winner|first one home|fastest] would get {c:COLORS.a} {x:PRIZES}, and {h} [wanted\
|hoped|longed] to win it [very much|more than anything|at last|for {h.his} {g:FAMILY}].
        The prize was {c:COLORS.a} {x:PRIZES}. {h} had [practiced|trained|worked hard] [for weeks\
|every morning|all summer|day after day|with {h.his} {g:FAMILY}].
    """)
    t.say("""
        [Next to {h.him}|Beside {h.him}|On the left|On the right] stood {f:NAMES} <outfit>, who \
[was very fast|never lost|laughed at everybody|had won last year].
        "[I will win|You can't beat me|I am the fastest|That prize is mine]!" said {f:NAMES}[| \
loudly|, who had won last year]. {h} [said nothing|only smiled|felt <scared>].
    """)
    t.para("""
        "[Ready, set, go|One, two, three, go|On your marks, go]!" [called|shouted] \
{m:NEIGHBORS}, and [off they went|they were off|away they went|everybody started].
        {m:NEIGHBORS} [blew a whistle|waved a flag|rang a bell|clapped twice], {q1:NAMES}, \
{q2:NAMES} and {q3:NAMES} cheered, and [off they went|they were off|away they went|everybody \
started].
    """)
    t.say("""
        They {r.go} [past|all the way to] {s1:STOPS} and then [on |]to {s2:STOPS}. {f} was [first\
|in front|ahead], and {h} was [close behind|right behind {f.him}|second|not far behind].
        At {s1:STOPS}, {f} was [first|in front|ahead]. At {s2:STOPS}, {h} was [close behind\
|right behind {f.him}|only a little behind].
    """)
    t.para("""
        [Then|Suddenly|But then|All at once], {f} {r.stop}. "[Ouch|Ow|Oh no|Help]!" {f.he} [cried\
|yelled|called].
        [Just before the end|At the last turn|Near the finish], {f} {r.stop} [with a cry|in \
front of everybody|and could not go on].
    """)
    t.say("""
        [Now {h} could win|Now the way was free|The {x} was so near|Now {h} was first]! But \
{h.he} [stopped|turned back|looked back and stopped|could not leave {f.him}].
        <then>{h} [saw the finish line|could almost touch the {x}|was ahead|was first]. But \
{h.he} [stopped|turned back|thought only of {f}].
    """)
    t.say("""
        "[Are you hurt|Are you all right|Do you need help]?" asked {h}. "[You will lose|Go on\
|Don't stop|Think of the race]," said {f}. "[That doesn't matter|It is only a race|I can't leave \
you here|You need help]," said {h}[| <kindly>].
        <then>{h} [helped {f.him}|held out an arm|gave {f.him} some water|stayed with {f.him}]. \
"<hm>[Why do you help me|You could win|I was not nice to you]," <spoke> {f}[| <kindly>]. \
"[Because you need it|It is only a prize|Come on]," {h} <said:f>.
    """)
    t.say("""
        {w:NAMES} had won. {w.He} [looked at|held|turned over] the {x} [and thought|for a moment\
|and smiled]. "[This is not mine|I can't keep this|You should have it]," {w.he} said to {h}.
        "<hm>[I have seen many races|This was a strange race|The fastest did not win]," <spoke> \
{m}[| <kindly>]. "But the [best|kindest|biggest] heart [wins today|gets the prize]."
    """)
    t.para("""
        <then>{h} [took|got|was given] the {c} {x} [and shared it|and shared the joy|but shared \
the day] with {f}.
        And so {h} and {f} [both held|both got|shared] the {c} {x}. [They were friends from then \
on|"Next year we go as a team," <spoke> {f}|It was better than winning alone].
        <close> the {c} {x} [stayed|was] with {f} one week and with {h} the next, and [the two \
were friends|nobody asked who had won|they always raced together].
    """)


def quarrel(t: Teller) -> None:
    """Two friends fight about a toy and make up."""
    t.say("""
        {h.He} [played|had fun] with it [every day|all the time|from morning to night|in every \
free minute], [mostly alone|rain or shine|and took good care of it|and sang a song].
        It had been a gift from {h.his} {g:FAMILY}, and [it still smelled new|it shone in the sun\
|{h} was proud of it|there was no other like it].
    """)
    t.para("""
        <one_day> {h.his} <friend> {f:NAMES} came along <outfit>. "<hm>[Let me|Please let me|Do \
let me] [try it|have a turn|play with it]," <spoke> {f}[| <kindly>].
        <one_day> {f:NAMES}, {h.his} <friend>, [came over|came by|stood at the door]. {f.He} [saw\
|wanted|reached for] the {x} [at once|right away|with shining eyes].
    """)
    t.say("""
        "[No|No, it is mine|Not now|You will break it]!" said {h}[| <kindly>]. "[You had it long \
enough|That is not fair|You never share|I only want one turn]!" <cried> {f}.
        But {h} [held on to it|did not let go|shook {h.his} head|pulled it away]. "[It is mine\
|Mine|Don't touch it|I want it now]!" "[You are mean|You never share|Just one minute|That is not \
fair]!" said {f}.
    """)
    t.say("""
        "[I don't like you any more|I am going home|You are not my friend|I am leaving]!" [said\
|shouted|cried] {f}. And {f.he} went home [angry|in tears|without another word|and slammed the \
door].
        <then>{f} [turned red|stamped {f.his} foot|threw down {f.his} hat]. "[I will never play \
with you again|I am going home|Keep your silly {x}]!" {f.he} said and ran [off|away|home].
    """)
    t.para("""
        Now {h} had the {x} all alone. But it was [no fun|not the same|boring|dull] [without {f}\
|any more|now], and {h.he} felt <sad>.
        <then>{h} [tried to play|sat down with the {x}|played for a while|looked <spots> for \
something to do], but it was [no fun|boring|not the same] [alone|without {f}]. {h.He} <wept:h>.
    """)
    t.say("""
        "[Why are you alone|Where is {f}|Why so quiet]?" asked {h.his} {s:FAMILY}. "We [had a \
fight|fought|yelled at each other]," said {h} <kindly>.
        {h.His} {s:FAMILY} [sat down|came and sat|stopped] beside {h.him}. "[What is more fun\
|What would you rather have|What is worth more], {x.a} or a friend?" {s.he} asked.
    """)
    t.para("""
        [So|The next day|Right away|An hour later] {h} <went> to {f}'s house with the {x}. "[I \
am sorry|I was wrong|I am so sorry|Please forgive me]," {h.he} said. "[You can have the first \
turn|Will you play with me|I should have shared]."
        {h} took the {x} and [ran off|set out|went to find {f.him}]. [Halfway|On the corner|At \
the gate], {h.he} met {f}, who [had come to say sorry|held a flower|looked sad]. "I am sorry!" \
they said [at once|together].
    """)
    t.say("""
        <then>{f} <smile:f>. "[I am sorry, too|I was mean, too|I should have asked nicely|It is \
all right]," {f.he} <said:h>.
        "[Friends again|Are we friends|Shall we forget it]?" asked {f}. "[Friends forever|Yes|Of \
course]!" said {h}, and they [hugged|both grinned|laughed].
    """)
    t.para("""
        Then they took turns with the {x}: [first {h}, then {f}|first {f}, then {h}|ten minutes \
each]. Then they <games>, and it was [twice the fun|a wonderful day].
        They [played|laughed|had fun] with the {c} {x} until [dark|supper|the stars came out\
|they were tired], and [nobody said "mine"|everything was "ours"|they did not fight once|{h} was \
<glad>].
        <close> when they both wanted the {x}, they [counted to three|took turns|drew straws\
|laughed about it], and [it was no problem|nobody cried|they stayed friends].
    """)


PLOTS: dict[str, Callable[[Teller], None]] = {
    plot.__name__: plot
    for plot in (
        surprise, newcomer, weather, night, brave, race, sharing,
        making, quarrel, rescue, lost, promise, visit, trade,
    )
}  # fmt: skip


def tell(t: Teller) -> None:
    """A whole story: who it is about, then a plot."""
    t.say(OPENING)
    t.say(LIFE)
    PLOTS[t.para(THEMES)](t)
    if "pet" in t.env:
        t.say(PET_CODA)


STORYWORLD = Grammar(tell, lexicons=LEXICONS, macros=MACROS, variants=VARIANTS)
