"""The words of storyworld: names, animals, things, places, and what goes with each."""

from tinygpt.components.datasets.storyworld.grammar import Entry, Lexicon, table, words

GIRLS = words(
    """Lily, Mia, Anna, Rosie, Ella, Lucy, Sara, Nora, Emma, Molly, Zoe, Ruby, Jane, Daisy, Maya,
    Alice, Ivy, Clara, June, Kate, Bella, Hannah, Penny, Nina, Amy, Leah, Wendy, Grace, Eva, Fern,
    Holly, Tara, Olive, Mei, Priya, Polly""",
    **{"is": "f"},
)
BOYS = words(
    """Tom, Ben, Sam, Max, Leo, Jack, Tim, Finn, Noah, Oscar, Henry, Theo, Luke, Jake, Milo, Eli,
    Peter, Toby, Adam, Dan, Hugo, Otto, Ravi, Kofi, Felix, Nate, Joe, George, Ted, Ali, Billy,
    Simon, Paul, Ned, Arlo, Walter""",
    **{"is": "m"},
)
NAMES = Lexicon([name for pair in zip(GIRLS.entries, BOYS.entries, strict=True) for name in pair])
FAMILY = table("""
    _ | call | is
    mom | Mom | f
    dad | Dad | m
    grandma | Grandma | f
    grandpa | Grandpa | m
    aunt | Auntie | f
    uncle | Uncle | m
""")
NEIGHBORS = table("""
    _ | is
    Mrs. Green | f
    Mr. Brown | m
    Mrs. Bell | f
    Mr. Hill | m
    Miss Plum | f
    Mr. Wood | m
    Mrs. Stone | f
    Mr. Pepper | m
    Miss Fox | f
    Mr. Lake | m
""")
ANIMALS = words(
    "rabbit, mouse, bear, fox, squirrel, hedgehog, beaver, otter, mole, badger, raccoon"
)
KIN = Lexicon(FAMILY.entries[2:])  # who may live elsewhere
COLORS = words(
    "red, blue, green, yellow, orange, purple, pink, white, brown, silver, golden, gray, striped"
)
TREASURES = words(
    """ball, teddy bear, hat, scarf, whistle, toy boat, book, doll, toy car, bell, marble, kite,
    toy train, flute, spinning top, ribbon, button, key, lantern, feather, mitten, paper star,
    ring, wooden horse, umbrella, music box"""
)
TOYS = words(
    """ball, kite, drum, toy train, swing, wagon, scooter, jump rope, puzzle, toy boat, doll,
    paint box, bucket, hoop, toy robot, dollhouse, toy crane, tricycle, spinning top, rocking \
horse"""
)
CLOTHES = words("coat, scarf, sweater, shawl, cape, jacket, cloak, poncho, vest, robe")
CRITTERS = table("""
    _ | noise
    bird | chirped
    kitten | meowed
    puppy | whined
    duckling | peeped
    lamb | bleated
    baby goat | bleated
    chick | peeped
    baby owl | hooted
    piglet | squealed
    pony | neighed
""")
STOPS = table("""
    _ | did | find
    the pond | fed the ducks | in the reeds beside the pond
    the big oak tree | rested in the shade | between the roots of the big oak tree
    the bridge | watched the fish | in a corner of the bridge
    the bakery | ate a warm bun | on the step of the bakery
    the playground | went down the slide | under the slide
    the library | looked at a picture book | on the lowest shelf in the library
    the meadow | picked some daisies | in the long grass of the meadow
    the beach | dug a deep hole | half hidden in the sand
    the barn | brushed the pony | in the hay
    the garden | smelled the roses | under a rose bush
    the bus stop | waved at the driver | on the bench at the bus stop
    the market | looked at the pears | behind a box of pears
    the stream | jumped over the stones | between two wet stones
    the hill | rolled down the grass | at the foot of the hill
    the old well | threw in a penny | beside the old well
    the mill | saw the big wheel turn | near the big wheel of the mill
    the train station | counted the trains | next to the ticket window
    the orchard | climbed a low tree | under an apple tree
""")
NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve",
]  # fmt: skip
MANY = Lexicon([Entry({"": NUMBERS[n], "n": str(n)}) for n in (8, 10, 9, 12, 11)])
FEW = Lexicon([Entry({"": NUMBERS[n], "n": str(n)}) for n in (2, 3)])
TREATS = words(
    """cookies, apples, pears, muffins, plums, buns, cherries, peaches, pancakes, carrots, figs,
    nuts, strawberries, honey cakes, biscuits, oranges, rolls, grapes"""
)
BASKETS = words("basket, bag, box, tin, bowl, sack, jar, bucket, lunch box, basin")
COUNTS = Lexicon([Entry({"": NUMBERS[n]}) for n in (3, 10, 5, 4, 7)])
FEARS = table("""
    _ | dare | did | first
    the dark | go into the dark room | walked into the dark room | the door
    the deep water | jump into the deep water | jumped into the deep water | the edge
    the tall slide | go down the tall slide | slid all the way down | the ladder
    the big dog next door | pat the big dog | patted the big dog on its head | the fence
    the dark cellar | go down to the cellar | went down every step to the cellar | the first step
    the old bridge | cross the old bridge | crossed the old bridge | the first plank
    the high tree house | climb up to the tree house | climbed up to the tree house | the rope
    the noisy geese | walk past the geese | walked right past the geese | the gate
    the school stage | sing on the stage | sang a whole song on the stage | the curtain
    the black cave | look inside the cave | stepped inside the cave | the big rock
""")
CHARMS = words(
    """stone, button, shell, coin, feather, ribbon, acorn, marble, bead, pebble, whistle, bell,
    lucky penny, chestnut, thimble"""
)
CRAFTS = table("""
    _ | from | tool | first | flaw | mend | use
    cake | flour and eggs | a spoon | mixed the batter | fell in on one side | covered the hole \
with berries | cut a big piece of
    birdhouse | wood and nails | a hammer | cut the boards | came out crooked | put a small \
block under it | hung up
    card | paper and paint | a brush | folded the paper | got a blot in the middle | turned the \
blot into a flower | put up
    kite | paper and sticks | a ball of string | tied the sticks | had a rip | put a patch on \
the rip | flew
    necklace | beads and thread | a needle | put the beads in a row | broke in two | tied the \
thread with a strong knot | put on
    pillow | cloth and wool | a needle | cut the cloth | had a hole in one corner | sewed a \
heart over the hole | leaned back on
    clay pot | clay and water | a flat stick | rolled the clay | got a crack | filled the crack \
with wet clay | put a flower in
    pie | apples and dough | a rolling pin | peeled the apples | got a burned edge | cut off the \
burned part | tasted
    paper lantern | paper and wire | a pair of scissors | bent the wire | leaned to one side | \
bent the wire again | lit
    picture frame | shells and glue | a brush | washed the shells | lost two of its shells | \
glued them on again | hung up
    wooden boat | wood and string | a small saw | cut the wood | tipped over in the water | put \
a stone in the bottom | sailed
    basket | straw and ribbon | a pair of scissors | bent the straw | had a loose handle | tied \
the handle with ribbon | put flowers in
""")
OUTINGS = table("""
    _ | plan | place | did
    kite | fly a kite | the hill | flew high above the trees
    picnic basket | have a picnic | the meadow | stood open on the grass
    toy boat | sail a toy boat | the pond | sailed right across the water
    bicycle | ride a bicycle | the park | rolled along like the wind
    ball | play ball | the field | bounced over the wet grass
    fishing rod | go fishing | the river | pulled out a shiny fish
    bucket | dig in the sand | the beach | was full of shells
    scooter | ride a scooter | the park | splashed through every puddle
    tent | sleep in a tent | the woods | stood under the tall trees
    basket | pick berries | the forest | was full of ripe berries
    swing | play on the swing | the yard | flew up to the sky
    camera | take pictures of birds | the lake | went click, click, click
""")
TRADERS = table("""
    _ | gives | thing | is
    the baker | a loaf of bread | bread | m
    the farmer | a sack of corn | corn | m
    the fisherman | a piece of net | net | m
    the gardener | a pot of herbs | herbs | f
    the tailor | a roll of cloth | cloth | m
    the milkmaid | a round cheese | cheese | f
    the beekeeper | a jar of honey | honey | f
    the miller | a bag of flour | flour | m
    the potter | a clay jug | jug | f
    the shepherd | a ball of wool | wool | m
    the carpenter | a wooden spoon | spoon | m
    the weaver | a straw mat | mat | f
    the painter | a little brush | brush | f
    the cook | a pot of jam | jam | m
""")
FINDS = words("basket, rope, egg, candle, blanket, lamp, bottle, ladder, broom, pumpkin, horseshoe")
GIFTS = words(
    """pie, picture, plant, cake, jar of jam, scarf, candle, card, pillow, teapot, pot of soup,
    bunch of tulips, loaf of bread, box of cookies, cushion, mug, jar of honey, paper flower"""
)
RIDES = words("bus, train, boat, tram, wagon, ferry, coach, cable car")
PLANTS = table("""
    _ | gave | part
    sunflower | opened its petals | petals
    rose bush | bloomed | flowers
    tomato plant | was full of fruit | tomatoes
    lemon tree | was full of fruit | lemons
    strawberry plant | was full of fruit | berries
    tulip | opened its petals | petals
    apple tree | bloomed | blossoms
    pumpkin plant | bloomed | flowers
    bean plant | climbed up to the window | leaves
""")
SOUNDS = table("""
    _ | again | cause | did
    tap, tap, tap | Tap, tap, tap | a branch | was knocking on the window
    drip, drip, drip | Drip, drip, drip | a leaky pipe | was dripping into a pan
    scratch, scratch | Scratch, scratch | a small mouse | was looking for crumbs
    creak, creak | Creak, creak | the old gate | was swinging in the wind
    hoo, hoo | Hoo, hoo | an owl | was calling to the moon
    thump, thump | Thump, thump | a loose shutter | was beating against the wall
    rustle, rustle | Rustle, rustle | a hedgehog | was walking through the leaves
    purr, purr | Purr, purr | the gray cat | was sleeping under the bed
    hum, hum | Hum, hum | the wind | was blowing over the chimney
    clink, clink | Clink, clink | a spoon | was swinging on its hook
""")
PRIZES = words("cup, medal, ribbon, crown, star, trophy, flag, cake, badge, wreath, bell, balloon")
RACES = table("""
    _ | go | stop
    running race | ran | fell
    sack race | hopped | fell
    sled race | raced | tipped over
    bicycle race | rode | fell
    scooter race | rolled | fell
    wagon race | rolled | lost a wheel
    donkey race | rode | fell off
    skating race | glided | slipped
""")
PLACES = words("""the sea, a forest, a river, the hills, a lake, the park, a busy market, an old
    mill, a quiet road, a green field, a tall tower, the train tracks, a windy hill, a farm,
    the village square, an apple orchard""")

PETS = words("cat, dog, goat, hen, pony, parrot, goose, hamster, duck, pig, donkey, lizard, snail")
PET_NAMES = words(
    """Pepper, Biscuit, Button, Muffin, Socks, Patch, Ginger, Cookie, Shadow, Pickle, Noodle, Snowy,
    Bubbles, Tiger, Whiskers, Peanut, Waffles, Pudding, Dot, Freckles, Lucky, Mango, Tinker, Smudge,
    Captain, Cinnamon, Turnip, Dusty, Plum, Comet, Crumb, Toffee, Bean, Marbles, Domino, Mustard"""
)
VILLAGES = Lexicon(
    [
        Entry({"": start.forms[""] + end.forms[""]})
        for end in words("ton, field, wick, dale, ford, brook, ham, wood, bury, stead").entries
        for start in words(
            """Apple, Willow, Maple, Green, Fox, Stone, River, Berry, Honey, Clover, Oak, Rose,
            Milk, Thistle, Winter, Lark, Swan, Butter, Sun, Ash"""
        ).entries
    ]
)
HOBBIES = words(
    """singing, drawing, running, reading, climbing trees, dancing, painting, telling jokes, baking,
    whistling, swimming, counting stars, collecting stones, building towers, asking questions,
    making up stories, fishing, catching frogs, skipping rope, doing puzzles, playing the drum,
    flying kites, feeding birds, picking berries, sewing, juggling, spelling, cooking, digging,
    getting up early, washing dishes, keeping secrets, waiting, sitting still"""
)
TRIFLES = words(
    """pencil, nail, string of beads, rusty screw, dead beetle, walnut, piece of chalk, toy soldier,
    magnet, lump of sugar, snail shell, stub of candle, blue stamp, wire, blunt knife, tooth, \
dry leaf,
    cherry stone, pine cone, bus ticket, glass eye, elastic band, spool, map, comb, crumb of cheese,
    handkerchief, dice, paper clip, old watch, eggshell, cork"""
)
SIGHTS = table("""
    _
    a sleepy dog
    two geese
    a man with a cart
    a boy on a pony
    a red tractor
    three nuns
    a black hen
    a lady with a big hat
    the mail car
    a tired clown
    seven sheep
    an old sailor
    a fox in the corn
    a girl with a violin
    a yellow bus
    two painters
    a hungry goat
    a soldier
    a tall chimney sweep
    a row of ducks
    a boy with a trumpet
    the doctor on a bicycle
    a snail on a leaf
    five crows
    a baby in a wagon
    a broken cart
    a woman with a goose
    the night watchman
    a blue butterfly
    a man asleep on a bench
    twin sisters
    a white horse
    a green beetle
    a street singer
    a fat pigeon
    a boy eating a pear
""")
SMELLS = words(
    """hay, fresh bread, roses, the sea, wet leaves, smoke, honey, mint, apples, soap, pine trees,
    warm milk, rain, clover, fish, cinnamon, cut grass, horses, lilac, mushrooms, onions, paint,
    roasted nuts, oranges, dust, plums, moss, tea"""
)
GARMENTS = words(
    """coat, hat, dress, jacket, shirt, scarf, sweater, cap, cape, vest, bow tie, skirt, hood, \
apron,
    raincoat, shawl, robe, straw hat, bonnet"""
)
SHOES = words(
    """boots, shoes, socks, mittens, gloves, sandals, trousers, slippers, stockings, pants, clogs,
    buttons, ribbons, earmuffs, suspenders, overalls"""
)
FOODS = words(
    """bread, cheese, plums, soup, cherries, noodles, rice, peas, beans, honey, jam, butter, toast,
    carrots, apples, pears, berries, nuts, popcorn, pudding, pancakes, potatoes, corn, tomatoes, \
melon,
    crackers, dumplings, waffles, raisins, ginger cake, lemon pie, muffins, oatmeal, beets, figs"""
)
GAMES = words(
    """tag, chess, cards, dominoes, marbles, pirates, hide-and-seek, hopscotch, school, checkers,
    doctor, circus, charades, king and queen, shop, train, leapfrog, bakery, post office, \
ghosts, zoo,
    robots, farm, catch, knights, jacks, space, store, statues, detectives"""
)
DREAMS = words(
    """dragons, whales, pirates, castles, ships, giants, clouds, the moon, elephants, lions, a \
talking
    tree, snow, rockets, treasure, the sea, a flying bed, kings, bears, wizards, penguins, ice \
cream,
    dancing shoes, volcanoes, tigers, trains, caves, mermaids, islands, camels, balloons, monkeys,
    a brave snail, the desert, owls, butterflies, drums"""
)
SPOTS = words(
    """bed, door, chair, table, stove, rug, basket, bench, shelf, clock, lamp, mirror, sofa, stairs,
    bookcase, bathtub, curtain, coat rack, flowerpot, piano, washtub, ladder, wood box, barrel, \
cradle,
    stool, desk, trunk, plant, broom, umbrella stand, laundry, window, cupboard"""
)
LEXICONS = {name: value for name, value in list(globals().items()) if isinstance(value, Lexicon)}
