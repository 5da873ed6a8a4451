// SPDX-License-Identifier: Apache-2.0
//! The words of which one is hidden. Everybody may know them: there are 256, so that one random byte chooses fairly.

pub const LETTERS: usize = 6;

pub const WORDS: [&str; 256] = [
    "almond", "anchor", "animal", "apples", "artist", "aspens", "attics", "autumn", "badger", "bakers", "ballad",
    "bamboo", "banana", "bandit", "banjos", "barber", "barley", "barrel", "basket", "beaver", "beetle", "bishop",
    "blazer", "bonnet", "bottle", "branch", "breeze", "bridge", "bronze", "brooch", "bubble", "budgie", "buffet",
    "burrow", "butter", "button", "cactus", "camera", "candle", "cannon", "canoes", "canvas", "carpet", "carrot",
    "cashew", "castle", "celery", "cellar", "cement", "cheese", "chilli", "chisel", "chorus", "church", "circus",
    "citrus", "clover", "cobalt", "cocoon", "coffee", "collar", "comets", "corals", "cotton", "cougar", "crater",
    "crayon", "crocus", "crumbs", "cutlet", "cymbal", "dahlia", "dancer", "dinner", "donkey", "dragon", "drawer",
    "eagles", "easels", "eclair", "embers", "falcon", "farmer", "fennel", "ferret", "finger", "flames", "flower",
    "forest", "fridge", "galaxy", "garden", "garlic", "geyser", "gibbon", "ginger", "goblet", "goblin", "gopher",
    "grapes", "grotto", "guitar", "gutter", "hamlet", "hamper", "harbor", "hazels", "heaven", "hermit", "hollow",
    "honeys", "hornet", "igloos", "insect", "island", "jackal", "jaguar", "jasper", "jersey", "jigsaw", "jumper",
    "jungle", "kennel", "kettle", "kitten", "knight", "ladder", "lagoon", "leaves", "lemons", "lentil", "lilacs",
    "linnet", "lizard", "locket", "lupine", "magnet", "magpie", "mammal", "mantle", "maples", "marble", "marina",
    "meadow", "melons", "mildew", "minnow", "mitten", "monkey", "mortar", "mosaic", "museum", "mussel", "napkin",
    "nectar", "nettle", "nickel", "nougat", "nugget", "oracle", "orange", "orchid", "otters", "oxtail", "oyster",
    "paddle", "pantry", "papaya", "parrot", "pastry", "pencil", "pepper", "petals", "pickle", "piglet", "pillow",
    "pirate", "pistol", "planet", "plough", "plover", "pocket", "poodle", "poplar", "possum", "potato", "puddle",
    "puffin", "pulley", "puppet", "quartz", "quince", "quiver", "radish", "rafter", "raisin", "ravine", "ribbon",
    "riddle", "ripple", "rocket", "rudder", "saddle", "sailor", "salmon", "saucer", "scarab", "shadow", "shells",
    "shrimp", "silver", "singer", "sketch", "sorrel", "spider", "spiral", "sponge", "squash", "statue", "stones",
    "sultan", "sunset", "swords", "tailor", "teapot", "temple", "tennis", "throat", "timber", "tinsel", "toffee",
    "tomato", "tulips", "tundra", "tunnel", "turban", "turnip", "turtle", "valley", "velvet", "violet", "violin",
    "waffle", "wagons", "walrus", "warden", "weasel", "willow", "wizard", "wombat", "wreath", "yachts", "yogurt",
    "zebras", "zephyr", "zigzag",
];
