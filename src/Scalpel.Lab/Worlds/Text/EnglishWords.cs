namespace Scalpel.Lab.Worlds;

/// <summary>The English part of the text world's lexicon. A word has one category only; the order is that of the ids.</summary>
static class EnglishWords
{
    /// <summary>Words of templates and function words, digits, punctuation.</summary>
    public const string Functions = """
        . , : ; ? ! ( ) - + = / 0 1 2 3 4 5 6 7 8 9
        one two three four five six ten once twice gets
        the a an this that these those it its you your i me my we us our they them their who go which what where when why how
        each every all any some many much more came sells others other another same both none nobody someone everyone something nothing
        ela elo is are was were be am do does did has have had can may must should will would
        not no yes never always often sometimes true false unknown maybe because if then than so but or and while until since before after
        in on at to from of for with without by as into over under near between behind beside through come up down out off away back here there
        today tomorrow yesterday now soon day night morning evening week month year time first second third last next again still already
        lives live home house find rents flat address born birthplace comes saw world grew cradle stood city
        works employer job paid pays pay salary boss runs company employs profession earns money trained people know plays play instrument practises loves sound owns own
        favourite dish likes like eat eats cooks orders tastes better dreams pet speaks language speak say says book far
        question answer person land mentor mayor king queen chief captain leader founder
        country river lies makes office animal found kept stands stand called years
        weather sunny rainy windy cold warm glad sad angry calm too
        code note colour premise hypothesis label sentence score list word words task result text item order opposite class
        reverse copy count sort odd largest smallest larger smaller middle repeat remove add swap start end write give tell show please
        step double group clan creed use letter support loan visa grant permit price cost rose fell news reply topic post listen stop
        look sum digits about hey member trade make want
        """;

    public const string Products = "soap candles shoes bricks glass paper paint nails tiles wool silk leather oil salt cloth steel pens toys boots gloves coats beds clocks ink";

    public const string Professions = "baker doctor nurse teacher farmer tailor carpenter lawyer judge painter potter sailor soldier miner miller butcher barber plumber gardener librarian chemist surgeon pilot driver porter clerk banker dentist mason weaver jeweller fisher";

    public const string Instruments = "piano violin flute guitar harp drum trumpet cello clarinet oboe banjo lute organ tuba viola trombone mandolin zither bagpipe cymbal";

    public const string Dishes = "soup stew bread cheese rice pasta curry salad pie pancakes dumplings noodles porridge omelette risotto lasagne goulash sausage ham beans lentils potatoes cabbage mushrooms tofu pizza waffles pudding custard tart chowder sushi";

    public const string Pets = "cat dog hamster parrot rabbit goldfish canary tortoise gecko ferret pony budgie gerbil chinchilla iguana spaniel poodle terrier kitten puppy cockatoo guppy chameleon mynah";

    public const string Objects = "lamp key cup box bag ball stone coin ring map pen hat coat rope bottle basket bucket knife spoon fork plate bowl mirror candle clock chair table stool bench blanket pillow towel brush broom hammer nail shovel ladder wheel cart sled kite doll whistle bell flag banner sword shield crown necklace bracelet purse wallet ticket stamp envelope parcel crate barrel jar vase pot pan kettle teapot tray lantern torch umbrella scarf glove boot belt button needle thread ribbon feather shell";

    public const string Places = "market garden harbour station school library museum park forest beach bridge tower castle church temple bakery theatre hospital farm mill meadow lake hill valley island cave desert village square stable cellar attic kitchen workshop tavern airport factory prison stadium cemetery";

    public const string Colours = "red blue green yellow black white brown grey pink purple orange golden";

    /// <summary>Classes of animals, each with its animals.</summary>
    public static readonly (string Class, string Animals)[] Animals =
    [
        ("mammal", "lion wolf bear fox deer badger otter"), ("bird", "eagle owl crow swan heron raven"), ("fish", "trout salmon carp herring"),
        ("reptile", "snake lizard crocodile turtle"), ("insect", "ant beetle wasp moth"), ("amphibian", "frog toad newt"), ("crustacean", "crab lobster shrimp"),
        ("mollusc", "snail slug squid"), ("rodent", "mouse rat"), ("primate", "monkey gorilla"), ("worm", "leech"), ("arachnid", "spider"),
    ];

    /// <summary>Pairs of traits: agentic with communal ones.</summary>
    public const string AgenticPairs = """
        ambitious modest dominant gentle assertive caring bold kind daring tender forceful warmhearted confident helpful decisive patient
        competitive cooperative independent devoted fearless loving tough soft commanding sympathetic driven nurturing outspoken humble
        leading sharing stubborn yielding rational emotional logical intuitive strong delicate firm friendly brilliant supportive
        skilled sensitive expert pleasant
        """;

    /// <summary>Pairs of traits that are opposites, the better one first.</summary>
    public const string OppositePairs = """
        generous stingy honest dishonest diligent lazy clever stupid polite rude brave cowardly clean dirty careful careless
        cheerful gloomy loyal faithless punctual late quiet noisy wise foolish trusting jealous tidy messy sober drunk
        thrifty wasteful peaceful violent healthy sick fair unfair open secretive sincere insincere lively dull graceful clumsy
        """;

    public const string Verbs = """
        went took gave got dropped opened closed looked walked ran sang danced slept woke sat ate drank cooked bought sold lost hid carried broke fixed
        washed made said asked told answered smiled laughed cried waited worked played read wrote spoke heard smelled touched felt thought knew
        wanted needed liked loved hated helped followed met left arrived returned stayed climbed jumped swam fished hunted planted picked cut
        built burned lit filled emptied threw caught pushed pulled turned moved put brought sent received showed taught learned counted
        named visited thanked blamed praised warned saved
        buy sell keep take close fix carry hide
        """;

    public const string Adjectives = """
        old new young big small large tiny long short tall high low wide narrow deep heavy light dark bright loud
        slow fast quick hot wet dry empty full rich poor cheap dear rare common plain pretty ugly fine rough smooth
        hard easy safe dangerous busy free early good bad great strange famous local foreign wooden round tired hungry sharp broken
        """;

    /// <summary>Six adverbs for each mood: glad, sad, angry, calm.</summary>
    public const string Adverbs = """
        gladly happily merrily brightly eagerly proudly sadly slowly wearily heavily quietly alone angrily loudly roughly wildly harshly bitterly
        calmly softly gently peacefully patiently kindly
        """;
}
