"""The phrases of storyworld: synonyms, macros, openings and the parts that many plots share.

h is the hero, f a friend, g an older family member, and x the thing that appears early in every
story and again in its last paragraph. `grammar` documents the syntax of the lines.
"""

VARIANTS = {
    "at once": "[at once|right away|without delay|straight away|in a flash]",
    "for a while": "for [a while|some time|a bit|a little while]",
    "for a long time": "for [a long time|a very long time|ages|quite some time]",
    "looked at": "[looked at|gazed at|stared at|studied|peered at]",
    "began to": "[began to|started to]",
    "everybody": "[everybody|everyone]",
    "nobody": "[nobody|no one]",
    "somebody": "[somebody|someone]",
    "All at once": "All at once",  # unchanged; the phrase that begins first is matched
    "over the moon": "over the moon",
    "until dark": "until [dark|nightfall|sunset|dusk]",
    "all day": "all [day|day long|the day]",
    "to play": "to [play|have fun]",
    "beautiful": "[beautiful|lovely|pretty|splendid|marvelous|wonderful|gorgeous|fine]",
    "at last": "[at last|finally|in the end]",
}

# What a thing may be like wherever it is told of with "the" right before it
for nouns, looks in {
    "door gate window": "old wooden heavy little narrow green white rusty creaky broad dusty",
    "kitchen room hall": "quiet warm little cozy big tidy cool long narrow",
    "house": "little old big quiet white",
    "table shelf bench drawer": "old round wooden little white heavy brown dusty small polished",
    "wall fence roof chimney": "old low red gray white brown",
    "garden yard street lane": "quiet wide little sunny green long shady narrow muddy",
    "stairs floor steps": "old steep creaky cold wooden dark narrow stone",
    "path grass mud": "soft wet long cool deep brown thick muddy",
    "bushes bush trees tree hills": "green tall old thick dark round little far",
    "bed pillow blanket": "soft warm big white little blue wide striped",
    "cat dog goose goat": "fat gray sleepy lazy old white black brown spotted curious grumpy",
    "baker mailman neighbors driver": "old jolly kind friendly tall round busy tired grumpy \
cheerful",
    "moon": "pale silver bright golden yellow round",
    "stars": "bright silver golden pale first",
    "sun": "golden warm bright",
    "wind": "cold wild sharp icy strong gray",
    "lamp fire stove": "little warm bright old small yellow dim",
    "box bag pocket": "big small brown old deep little red secret",
    "crowd": "whole happy noisy loud big excited",
    "water": "cold clear fresh cool",
    "puddles clouds": "big deep little round dark brown gray",
    "clock bell": "old big little tall loud brass golden",
    "mirror": "old round little tall golden cracked",
}.items():
    for noun in nouns.split():
        VARIANTS[f"the {noun}"] = f"the [|{'|'.join(f'{look} ' for look in looks.split())}]{noun}"

MACROS = {
    "H": "[{h}|{h.He}]",
    "then": "[|Then |So |Now |And so |This time |Soon ]",
    "hm": "[|Well. |Oh! |Ah! |Hm. |Listen. |You know what? |Now, now. |Hey! |So. |My, my! ]",
    "outfit": """
        in {o1:COLORS.a} {o2:GARMENTS} and {o3:COLORS} {o4:SHOES}
        in {o1:COLORS.a} {o2:GARMENTS}, [with|holding] {t7:TRIFLES.a}
    """,
    "games": """
        played {e1:GAMES}, {e2:GAMES} and {e3:GAMES}
        made up a [story|song|play] about {e1:DREAMS} and {e2:DREAMS}
        ate {e1:FOODS} and {e2:FOODS} and played {e3:GAMES}
    """,
    "spots": """
        [under|behind|beside|on|near] the {e1:SPOTS}, [under|behind|beside|on|near] the \
{e2:SPOTS} and [under|behind|beside|on|near] the {e3:SPOTS}
    """,
    "a_little": """
        a [little|kind|happy|curious|clever|cheerful|gentle|quiet|small|merry|friendly|young\
|sweet|lively|dreamy|funny|bright|careful|busy|playful|polite|thoughtful|jolly|lucky|tidy\
|stubborn|patient]
        an [eager|honest|adventurous]
    """,
    "who": """
        girl [named|called] {h:GIRLS}
        boy [named|called] {h:BOYS}
        {k:ANIMALS} [named|called] {h:NAMES}
    """,
    "home": """
        in a [small|little|cozy|white|yellow|tall|crooked|red|stone|wooden|pink|round|green\
|narrow|sunny|funny|big|quiet] [house|cottage|home|cabin|farmhouse|mill] [near|beside|not far \
from|close to|by] {p:PLACES}
        in the [village|town] of {v:VILLAGES}
        in {v:VILLAGES}, [near|beside|not far from|close to|by] {p:PLACES}
    """,
    "one_day": """
        One [sunny|bright|warm|fine|cool|quiet|lovely|golden|clear|mild|fresh|busy|still|sleepy\
|hazy|blue] [morning|day|afternoon],
        One [spring|summer|autumn] [day|morning|afternoon],
        [One|On] [Saturday|Sunday|Monday|Friday|Tuesday|Wednesday|Thursday] [morning|afternoon],
        [After|Right after|Soon after] [breakfast|lunch|a nap|a good meal|the morning chores\
|school],
        [Early|Late] [one morning|one afternoon|on Saturday|on Sunday|in the day|in spring|in May\
|one Friday|in June|in October],
        One day in [spring|summer|autumn|May|June|April|September|July|early March|late October],
        [One day|One time|Once|Then, one day],
    """,
    "soon": """
        [Soon|Then|After a while|Just then|A moment later|A little later|Before long|At that \
moment|All at once|Suddenly|Not long after|In the next moment|A few minutes later|Out of the blue\
|All of a sudden],
    """,
    "went": """
        [walked|ran|went|skipped|hurried|strolled|hopped|marched|raced|wandered|trotted|rushed\
|danced|tramped|bounced|dashed]
    """,
    "crept": "[crept|walked|went|tiptoed|sneaked|crawled|shuffled|stole]",
    "spoke": """
        [said|whispered|called|murmured|declared|announced]
    """,
    "glad": """
        [happy|glad|joyful|pleased|delighted|cheerful|thrilled|proud|jolly|content|merry]
        [very|so|ever so|really] [happy|glad|pleased|proud|merry|cheerful]
        [full of joy|over the moon|warm inside|in high spirits|all smiles]
        as happy as [could be|a lark|a king|a bee in clover|a frog in a pond|a puppy]
    """,
    "sad": """
        [sad|upset|unhappy|worried|gloomy|blue|hurt|helpless|miserable]
        [very|so|terribly|really|quite] [sad|upset|unhappy|worried|lonely|gloomy]
        [close to tears|full of sorrow|heavy at heart|like crying|as gray as a rainy day]
    """,
    "scared": """
        [scared|afraid|nervous|frightened|shaky|uneasy]
        [very|so|a little|quite|terribly|rather] [scared|afraid|nervous|frightened|uneasy]
    """,
    "smile": """
        [smiled|grinned|laughed|beamed|nodded|chuckled|cheered|giggled|winked] [happily|with joy\
|softly|shyly|brightly|with shining eyes|warmly|at last]
        [smiled|grinned|laughed|beamed|giggled|nodded|cheered|chuckled|blushed]
    """,
    "wept": """
        [cried|wept|sobbed|sniffed|sighed] [softly|bitterly|a little|quietly|without a sound|for \
a while|and sniffed|again and again]
        [began to cry|burst into tears|hung {@.his} head|bit {@.his} lip|looked at the ground\
|wiped {@.his} eyes|sat down and cried|kicked a stone|hid {@.his} face|swallowed hard|let out a \
sigh]
    """,
    "joy": """
        [jumped|danced|hopped|skipped|spun|whirled] [for joy|up and down|around|in a circle|like \
a top|like a little goat]
        [clapped and|cheered and|laughed and|shouted and] [sang|danced|jumped]
        [smiled|grinned|laughed|beamed] [happily|with joy|from ear to ear|for a long time]
    """,
    "ohno": """
        [Oh no|Oh dear|Uh-oh|Oh my|Dear me|How awful|Alas|Oh, what a pity|Oh, bother|Good grief\
|Goodness me|How terrible]
    """,
    "yay": """
        [Hooray|Yes|Oh, wow|Yippee|How wonderful|At last|Look at that|What luck|Wow|Oh, how \
lovely|I can't believe it|Hurrah|Goodness|Oh, joy|How marvelous|Well, well]
    """,
    "cried": "[cried|shouted|called|yelled|exclaimed|sang out]",
    "said": "[said|whispered|told {@.him}|answered|murmured|called]",
    "kindly": """
        [softly|kindly|gently|quietly|with a smile|in a warm voice|at once|after a moment|calmly\
|in a low voice|slowly|with a nod|shyly|a little hoarsely|in a clear voice|with a wink|with a \
sigh|almost in a whisper]
    """,
    "dont_worry": """
        [Don't worry|Don't cry|Don't be sad|Cheer up|It's all right|Take heart|Never mind|Be \
brave|Chin up|There, there|All is not lost|Dry your tears]
    """,
    "ask_wrong": """
        [What is wrong|What is the matter|Why are you so sad|What happened|Are you all right|Why \
are you crying|Can I help you|Why do you look so sad|Tell me, what is it|Is something wrong|Why \
such a long face|Did something happen]
    """,
    "thanks": """
        [Thank you|Thank you so much|Oh, thank you|Thanks|Many thanks|Thank you very much|A \
thousand thanks|Thank you with all my heart|How kind of you]
    """,
    "friend": """
        [friend|best friend|good friend|dear friend|old friend|neighbor|playmate|cousin|schoolmate]
    """,
    "close": """
        [From that day on|After that|From then on|From that moment on|In the weeks after that],
    """,
    "night": """
        [That night|That evening|At bedtime|At the end of the day|When the stars came out|When \
the moon rose|Before bed|At sunset|After supper|Late that evening|By candlelight],
    """,
    "near_by": """
        [somewhere|not far off|nearby|far away|high above|behind the trees|down the road] a \
<beast> <did>
        [somewhere|not far off|nearby|far away|high above|behind the trees|down the road] [the \
church bell rang|a train whistled|somebody was singing|a door slammed|children were laughing]
        [the sun was|the sky was|the air was|the light was] [soft|bright|warm|clear|golden|gentle\
|mild]
        [white|little|round|soft|pink|slow] clouds [sailed by|hung in the sky|looked like sheep\
|drifted over the hills|raced each other|looked like ships]
    """,
    "beast": """
        [small|gray|brown|tiny|sleepy|young|black|lonely|speckled|fat|lazy|shy] [blackbird|dog\
|donkey|rooster|crow|goose|cricket|frog|cow|woodpecker|sheep|bee|cuckoo]
    """,
    "did": """
        [was singing|made a noise|was looking for food|called for its mother|greeted the day|was \
busy|was telling tales|would not be quiet|was taking a walk|scratched itself|was dreaming]
    """,
    "tasty": """
        [sweet|warm|fresh|tasty|yummy|big|lovely|soft|delicious|juicy|round|fat|golden|wonderful]
    """,
}

OPENING = """
    [Once upon a time|Long ago|Once|A long time ago|Many years ago], there was <a_little> <who>, \
who lived <home>.
    [Once upon a time|Long ago|Once|A long time ago|Many years ago], <a_little> <who> lived <home>.
    There was once <a_little> <who>.
    {h:NAMES} was <a_little> {h.child} who lived <home>.
    {h:NAMES} was <a_little> {h.child} from {v:VILLAGES}.
    [In a village|In a town|In a valley|On a farm|On an island|In a house] [near|beside|by|close \
to|not far from] {p:PLACES} lived <a_little> <who>.
    [In|Near|Just outside] {v:VILLAGES} there lived <a_little> <who>.
"""

LIFE = """
    {h.He} had a [fat|gray|lazy|small|black|brown|funny|clever|shy|white|spotted|noisy] {z:PETS} \
[named|called] {pet:PET_NAMES}.
    {h.He} [loved|liked] {h1:HOBBIES}, {h2:HOBBIES} and {h3:HOBBIES}.
    In {h.his} [pocket|bag|coat] {h.he} [always|often|usually] [had|carried|kept] \
{t1:TRIFLES.a}, {t2:TRIFLES.a} and {t3:TRIFLES.a}.
    {h.He} was [never|hardly ever|not often] seen without {pet:PET_NAMES}, {h.his} [fat|gray|lazy\
|small|black|brown|funny|clever|shy|white] {z:PETS}.
    {h.He} was good at {h1:HOBBIES} and {h2:HOBBIES}, but not at {h3:HOBBIES}.
"""

SIGHTS_SEEN = """
    On the way {h.he} [saw|passed|met|greeted|counted] {w1:SIGHTS}, {w2:SIGHTS} and {w3:SIGHTS}.
    {h.He} [saw|passed|met|greeted|waved at] {w1:SIGHTS} and {w2:SIGHTS}, and <near_by>.
    The air smelled of {o1:SMELLS}, {o2:SMELLS} and {o3:SMELLS}, and <near_by>.
    {w1:SIGHTS.A} and {w2:SIGHTS} [came along|went by|stood in the road|looked at {h.him}], and \
<near_by>.
"""

PET_CODA = """
    Even {pet} [was happy|looked pleased|danced a little|could feel it|seemed to smile].
    And {pet} [got a little snack, too|slept through it all|had a new story to dream of|never \
left {h.his} side|ate the crumbs].
    {pet} [the {z} ][yawned|blinked|stretched|rolled over] and [fell asleep|asked for supper\
|went to bed|listened].
"""
