//! The units that are known, what they measure, and their prefixes.

/// Length (metre), mass (kilogram), time (second), current (ampere), temperature (kelvin), amount
/// (mole), light (candela), calendar time (month), angle (second of arc), and what nothing converts
/// into these: radian, dollar, yuan, sterling, euro, yen, parsec, dalton.
pub(super) const DIMENSIONS: usize = 17;

type Powers = [i8; DIMENSIONS];

/// What a unit measures, as powers of the base quantities, and how many base units it is: a
/// fraction times a power of ten.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    pub powers: Powers,
    pub above: u64,
    pub below: u64,
    pub ten: i8,
}

impl Measure {
    const fn ten(mut self, ten: i8) -> Option<Measure> {
        self.ten = ten;
        Some(self)
    }
}

const fn base(at: usize, power: i8) -> Powers {
    let mut powers = [0; DIMENSIONS];
    powers[at] = power;
    powers
}

/// Powers of metre, kilogram, second and ampere.
const fn si(metre: i8, kilogram: i8, second: i8, ampere: i8) -> Powers {
    let mut powers = [0; DIMENSIONS];
    powers[0] = metre;
    powers[1] = kilogram;
    powers[2] = second;
    powers[3] = ampere;
    powers
}

const fn of(powers: Powers, above: u64, below: u64) -> Measure {
    Measure {
        powers,
        above,
        below,
        ten: 0,
    }
}

const fn some(powers: Powers, above: u64, below: u64) -> Option<Measure> {
    Some(of(powers, above, below))
}

const LENGTH: Powers = si(1, 0, 0, 0);
const AREA: Powers = si(2, 0, 0, 0);
const VOLUME: Powers = si(3, 0, 0, 0);
const MASS: Powers = si(0, 1, 0, 0);
const TIME: Powers = si(0, 0, 1, 0);
const FORCE: Powers = si(1, 1, -2, 0);
const ENERGY: Powers = si(2, 1, -2, 0);
const POWER: Powers = si(2, 1, -3, 0);
const PRESSURE: Powers = si(-1, 1, -2, 0);
const FREQUENCY: Powers = si(0, 0, -1, 0);
const KELVIN: Powers = base(4, 1);
const AMOUNT: Powers = base(5, 1);
const LIGHT: Powers = base(6, 1);
const MONTHS: Powers = base(7, 1);
const ANGLE: Powers = base(8, 1);
const RADIAN: Powers = base(9, 1);
const DOLLAR: Powers = base(10, 1);
const YUAN: Powers = base(11, 1);
const STERLING: Powers = base(12, 1);
const EURO: Powers = base(13, 1);
const YEN: Powers = base(14, 1);
const PARSEC: Powers = base(15, 1);
const DALTON: Powers = base(16, 1);

/// Cubic metres in a US gallon: 231 cubic inches.
const GALLON: (u64, u64) = (3_785_411_784, 1_000_000_000_000);

/// A gallon's n-th part.
const fn gallon(part: u64) -> Option<Measure> {
    some(VOLUME, GALLON.0, part * GALLON.1)
}

struct Row {
    /// Spellings in lower case; the first is the canonical one. Plurals in `s` are understood.
    words: &'static [&'static str],
    /// Symbols, which are what they are by the case of their letters.
    symbols: &'static [&'static str],
    prefixed: bool,
    /// What the unit measures; `None` for a unit that nothing converts.
    measure: Option<Measure>,
}

/// A unit without prefixes.
const fn plain(
    words: &'static [&'static str],
    symbols: &'static [&'static str],
    measure: Option<Measure>,
) -> Row {
    Row {
        words,
        symbols,
        prefixed: false,
        measure,
    }
}

/// A unit that takes prefixes: kilo, milli, 千, 毫.
const fn metric(
    words: &'static [&'static str],
    symbols: &'static [&'static str],
    measure: Option<Measure>,
) -> Row {
    Row {
        words,
        symbols,
        prefixed: true,
        measure,
    }
}

const ROWS: &[Row] = &[
    metric(&["meter", "metre", "m", "米"], &["m"], some(LENGTH, 1, 1)),
    plain(&["micron"], &[], of(LENGTH, 1, 1).ten(-6)),
    plain(
        &["angstrom", "ångström", "埃"],
        &["Å", "Å"],
        of(LENGTH, 1, 1).ten(-10),
    ),
    plain(
        &["inch", "inches", "in", "英寸"],
        &[],
        some(LENGTH, 254, 10_000),
    ),
    plain(
        &["foot", "feet", "ft", "英尺"],
        &[],
        some(LENGTH, 3_048, 10_000),
    ),
    plain(&["yard", "yd", "码"], &[], some(LENGTH, 9_144, 10_000)),
    plain(&["mile", "mi", "英里"], &[], some(LENGTH, 1_609_344, 1_000)),
    plain(&["furlong"], &[], some(LENGTH, 201_168, 1_000)),
    plain(&["fathom"], &[], some(LENGTH, 18_288, 10_000)),
    plain(&["nautical mile", "海里"], &["nmi"], some(LENGTH, 1_852, 1)),
    plain(
        &["lightyear", "光年"],
        &["ly"],
        some(LENGTH, 9_460_730_472_580_800, 1),
    ),
    plain(
        &["au", "天文单位"],
        &["AU"],
        some(LENGTH, 149_597_870_700, 1),
    ),
    metric(&["parsec", "秒差距"], &["pc"], some(PARSEC, 1, 1)),
    plain(&["公里"], &[], some(LENGTH, 1_000, 1)),
    plain(&["里"], &[], some(LENGTH, 500, 1)),
    plain(&["丈"], &[], some(LENGTH, 10, 3)),
    plain(&["尺"], &[], some(LENGTH, 1, 3)),
    plain(&["寸"], &[], some(LENGTH, 1, 30)),
    plain(
        &["acre", "英亩"],
        &[],
        some(AREA, 40_468_564_224, 10_000_000),
    ),
    plain(&["hectare", "公顷"], &["ha"], some(AREA, 10_000, 1)),
    plain(&["亩"], &[], some(AREA, 2_000, 3)),
    plain(&["barn"], &[], of(AREA, 1, 1).ten(-28)),
    metric(&["gram", "gramme", "g", "克"], &["g"], some(MASS, 1, 1_000)),
    plain(&["kilo", "公斤"], &[], some(MASS, 1, 1)),
    metric(&["tonne", "metric ton", "吨"], &["t"], some(MASS, 1_000, 1)),
    plain(&["斤"], &[], some(MASS, 1, 2)),
    plain(&["两"], &[], some(MASS, 1, 20)),
    plain(&["carat", "克拉"], &[], some(MASS, 1, 5_000)),
    plain(
        &["pound", "lb", "lbs", "磅"],
        &[],
        some(MASS, 45_359_237, 100_000_000),
    ),
    plain(
        &["ounce", "oz", "盎司"],
        &[],
        some(MASS, 45_359_237, 1_600_000_000),
    ),
    plain(&["stone"], &[], some(MASS, 14 * 45_359_237, 100_000_000)),
    // Of 2,000 pounds or of 1,000 kilograms.
    plain(&["ton"], &[], None),
    metric(&["dalton", "amu"], &["Da", "u"], some(DALTON, 1, 1)),
    metric(
        &["liter", "litre", "l", "升"],
        &["L", "l"],
        some(VOLUME, 1, 1_000),
    ),
    plain(&["gallon", "gal", "加仑"], &[], gallon(1)),
    plain(&["quart"], &["qt"], gallon(4)),
    plain(&["pint"], &["pt"], gallon(8)),
    plain(&["cup"], &[], gallon(16)),
    plain(&["fluid ounce"], &[], gallon(128)),
    plain(&["tablespoon", "tbsp"], &[], gallon(256)),
    plain(&["teaspoon", "tsp"], &[], gallon(768)),
    metric(
        &["second", "sec", "s", "秒", "秒钟"],
        &["s"],
        some(TIME, 1, 1),
    ),
    plain(&["minute", "min", "分钟"], &[], some(TIME, 60, 1)),
    // Of time or of money.
    plain(&["分"], &[], None),
    plain(&["刻钟", "刻"], &[], some(TIME, 900, 1)),
    plain(
        &["hour", "h", "hr", "小时", "时", "钟头"],
        &[],
        some(TIME, 3_600, 1),
    ),
    plain(&["day", "天", "日"], &[], some(TIME, 86_400, 1)),
    plain(&["week", "周", "星期"], &[], some(TIME, 604_800, 1)),
    plain(&["fortnight"], &[], some(TIME, 1_209_600, 1)),
    // Months have no fixed number of days.
    plain(&["month", "个月", "月"], &[], some(MONTHS, 1, 1)),
    plain(
        &["year", "yr", "年", "岁", "周岁"],
        &[],
        some(MONTHS, 12, 1),
    ),
    plain(&["decade"], &[], some(MONTHS, 120, 1)),
    plain(
        &["century", "centuries", "世纪"],
        &[],
        some(MONTHS, 1_200, 1),
    ),
    plain(&["millennium", "millennia"], &[], some(MONTHS, 12_000, 1)),
    plain(&["knot"], &["kn"], some(si(1, 0, -1, 0), 1_852, 3_600)),
    metric(&["newton", "牛顿", "牛"], &["N"], some(FORCE, 1, 1)),
    metric(&["dyne", "达因"], &["dyn"], of(FORCE, 1, 1).ten(-5)),
    plain(
        &["lbf"],
        &["lbf"],
        of(FORCE, 44_482_216_152_605, 1).ten(-13),
    ),
    metric(&["joule", "焦耳", "焦"], &["J"], some(ENERGY, 1, 1)),
    metric(&["erg", "尔格"], &["erg"], of(ENERGY, 1, 1).ten(-7)),
    metric(
        &["electronvolt", "电子伏特", "电子伏"],
        &["eV"],
        of(ENERGY, 1_602_176_634, 1).ten(-28),
    ),
    metric(
        &["calorie", "卡路里", "卡"],
        &["cal"],
        some(ENERGY, 4_184, 1_000),
    ),
    plain(&["大卡", "kcal"], &["Cal"], some(ENERGY, 4_184, 1)),
    metric(&["watt", "瓦特", "瓦"], &["W"], some(POWER, 1, 1)),
    metric(
        &["watthour", "瓦时", "瓦小时"],
        &["Wh"],
        some(ENERGY, 3_600, 1),
    ),
    plain(&["kwh"], &[], some(ENERGY, 3_600_000, 1)),
    plain(&["horsepower", "马力"], &["hp"], None),
    metric(&["pascal", "帕斯卡", "帕"], &["Pa"], some(PRESSURE, 1, 1)),
    plain(&["kpa"], &[], some(PRESSURE, 1_000, 1)),
    metric(&["bar", "巴"], &["bar"], some(PRESSURE, 100_000, 1)),
    plain(
        &["atmosphere", "atm", "标准大气压", "大气压"],
        &[],
        some(PRESSURE, 101_325, 1),
    ),
    plain(&["torr"], &["Torr"], some(PRESSURE, 101_325, 760)),
    // The conventional millimetre of mercury is a torr to seven digits, and is used as one.
    plain(
        &["mmhg", "毫米汞柱"],
        &["mmHg"],
        some(PRESSURE, 101_325, 760),
    ),
    plain(
        &["cmhg", "厘米汞柱"],
        &["cmHg"],
        some(PRESSURE, 101_325, 76),
    ),
    plain(
        &["psi"],
        &[],
        of(PRESSURE, 44_482_216_152_605, 64_516).ten(-5),
    ),
    metric(&["hertz", "赫兹", "赫"], &["Hz"], some(FREQUENCY, 1, 1)),
    plain(&["hz"], &[], some(FREQUENCY, 1, 1)),
    plain(&["khz"], &[], of(FREQUENCY, 1, 1).ten(3)),
    plain(&["mhz"], &[], of(FREQUENCY, 1, 1).ten(6)),
    plain(&["ghz"], &[], of(FREQUENCY, 1, 1).ten(9)),
    metric(
        &["ampere", "amp", "安培", "安"],
        &["A"],
        some(si(0, 0, 0, 1), 1, 1),
    ),
    metric(
        &["volt", "伏特", "伏"],
        &["V"],
        some(si(2, 1, -3, -1), 1, 1),
    ),
    metric(
        &["ohm", "欧姆", "欧"],
        &["Ω", "Ω"],
        some(si(2, 1, -3, -2), 1, 1),
    ),
    metric(&["siemens", "西门子"], &["S"], some(si(-2, -1, 3, 2), 1, 1)),
    metric(&["coulomb", "库仑", "库"], &[], some(si(0, 0, 1, 1), 1, 1)),
    // Coulomb or Celsius, farad or Fahrenheit.
    metric(&["C", "c"], &["C"], some(si(0, 0, 1, 1), 1, 1)),
    metric(&["F", "f"], &["F"], some(si(-2, -1, 4, 2), 1, 1)),
    metric(&["farad", "法拉", "法"], &[], some(si(-2, -1, 4, 2), 1, 1)),
    metric(
        &["henry", "henries", "亨利", "亨"],
        &["H"],
        some(si(2, 1, -2, -2), 1, 1),
    ),
    metric(
        &["weber", "韦伯", "韦"],
        &["Wb"],
        some(si(2, 1, -2, -1), 1, 1),
    ),
    metric(
        &["tesla", "特斯拉", "特"],
        &[],
        some(si(0, 1, -2, -1), 1, 1),
    ),
    metric(&["T"], &["T"], some(si(0, 1, -2, -1), 1, 1)),
    metric(&["gauss", "高斯"], &[], of(si(0, 1, -2, -1), 1, 1).ten(-4)),
    metric(
        &["becquerel", "贝克勒尔", "贝克"],
        &["Bq"],
        some(FREQUENCY, 1, 1),
    ),
    metric(&["curie", "居里"], &["Ci"], of(FREQUENCY, 37, 1).ten(9)),
    metric(&["gray", "戈瑞"], &["Gy"], some(si(2, 0, -2, 0), 1, 1)),
    metric(
        &["sievert", "希沃特", "希"],
        &["Sv"],
        some(si(2, 0, -2, 0), 1, 1),
    ),
    metric(&["candela", "坎德拉"], &["cd"], some(LIGHT, 1, 1)),
    metric(&["lumen", "流明"], &["lm"], some(LIGHT, 1, 1)),
    metric(
        &["lux", "勒克斯"],
        &["lx"],
        Some(Measure {
            powers: {
                let mut powers = LIGHT;
                powers[0] = -2;
                powers
            },
            above: 1,
            below: 1,
            ten: 0,
        }),
    ),
    metric(&["kelvin", "开尔文", "开"], &[], some(KELVIN, 1, 1)),
    metric(&["K"], &["K"], some(KELVIN, 1, 1)),
    plain(&["celsius", "摄氏度", "℃"], &["℃"], None),
    plain(&["fahrenheit", "华氏度", "℉"], &["℉"], None),
    metric(&["mole", "摩尔", "摩"], &["mol"], some(AMOUNT, 1, 1)),
    metric(
        &["M", "molar"],
        &["M"],
        Some(Measure {
            powers: {
                let mut powers = AMOUNT;
                powers[0] = -3;
                powers
            },
            above: 1_000,
            below: 1,
            ten: 0,
        }),
    ),
    metric(
        &["katal"],
        &["kat"],
        Some(Measure {
            powers: {
                let mut powers = AMOUNT;
                powers[2] = -1;
                powers
            },
            above: 1,
            below: 1,
            ten: 0,
        }),
    ),
    // A kilobyte has 1,000 bytes or 1,024.
    metric(&["bit", "比特"], &["b"], None),
    metric(&["byte", "字节"], &["B"], None),
    plain(&["kilobyte"], &["KB"], None),
    plain(
        &["dollar", "usd", "buck", "美元"],
        &[],
        some(DOLLAR, 100, 1),
    ),
    plain(
        &["cent", "penny", "pennies", "美分"],
        &[],
        some(DOLLAR, 1, 1),
    ),
    plain(&["nickel"], &[], None),
    plain(&["dime"], &[], None),
    plain(&["euro", "eur", "欧元"], &[], some(EURO, 1, 1)),
    plain(&["sterling", "gbp", "英镑"], &[], some(STERLING, 100, 1)),
    plain(&["pence", "便士"], &[], some(STERLING, 1, 1)),
    plain(&["yen", "jpy", "日元"], &[], some(YEN, 1, 1)),
    plain(
        &["yuan", "rmb", "cny", "元", "块", "块钱", "元钱", "人民币"],
        &[],
        some(YUAN, 100, 1),
    ),
    plain(
        &["jiao", "角", "角钱", "毛", "毛钱"],
        &[],
        some(YUAN, 10, 1),
    ),
    plain(&["fen", "分钱"], &[], some(YUAN, 1, 1)),
    plain(&["degree", "度"], &[], some(ANGLE, 3_600, 1)),
    plain(&["arcminute", "arcmin"], &[], some(ANGLE, 60, 1)),
    plain(&["arcsecond", "arcsec"], &[], some(ANGLE, 1, 1)),
    plain(&["gradian", "gon"], &[], some(ANGLE, 3_240, 1)),
    plain(
        &["revolution", "rev", "rotation", "turn", "转", "圈"],
        &[],
        some(ANGLE, 1_296_000, 1),
    ),
    metric(&["radian", "rad", "弧度"], &["rad"], some(RADIAN, 1, 1)),
    metric(&["steradian"], &["sr"], None),
    plain(&["decibel", "分贝"], &["dB"], None),
    plain(&["am"], &[], None),
    // Half of the day, or picometres.
    plain(&["pm"], &[], None),
];

/// Names of prefixes, and their powers of ten.
const PREFIXES: [(&str, i8); 20] = [
    ("tera", 12),
    ("giga", 9),
    ("mega", 6),
    ("kilo", 3),
    ("hecto", 2),
    ("deca", 1),
    ("deka", 1),
    ("deci", -1),
    ("centi", -2),
    ("milli", -3),
    ("micro", -6),
    ("nano", -9),
    ("pico", -12),
    ("femto", -15),
    ("兆", 6),
    ("千", 3),
    ("百", 2),
    ("分", -1),
    ("厘", -2),
    ("毫", -3),
];

/// Chinese prefixes that are no words elsewhere.
const SMALL: [(&str, i8); 3] = [("微", -6), ("纳", -9), ("皮", -12)];

/// Symbols of prefixes, and their powers of ten.
const LETTERS: [(char, i8); 13] = [
    ('T', 12),
    ('G', 9),
    ('M', 6),
    ('k', 3),
    ('h', 2),
    ('d', -1),
    ('c', -2),
    ('m', -3),
    ('μ', -6),
    ('µ', -6),
    ('n', -9),
    ('p', -12),
    ('f', -15),
];

/// A unit of the table, and the power of ten of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    row: usize,
    pub ten: i8,
}

impl Found {
    fn row(self) -> Option<&'static Row> {
        ROWS.get(self.row)
    }

    /// The canonical name, without the prefix.
    pub(super) fn name(self) -> &'static str {
        self.row()
            .and_then(|row| row.words.first())
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn chinese(self) -> Option<&'static str> {
        self.row()?
            .words
            .iter()
            .copied()
            .rfind(|word| !word.is_ascii())
    }

    /// What the unit measures beside units of these names; a name that means two units is read as
    /// the one that the other side is.
    pub(super) fn measure(self, beside: &[String], own: &[String]) -> Option<Measure> {
        let among = |names: &[&str]| {
            beside
                .iter()
                .chain(own)
                .any(|name| names.contains(&name.as_str()))
        };
        let compound = own.len() > 1;
        match self.name() {
            "ton" if among(&["pound", "ounce", "stone"]) => {
                some(MASS, 2_000 * 45_359_237, 100_000_000)
            }
            "ton" => some(MASS, 1_000, 1),
            "分" if among(&["yuan", "jiao", "fen"]) => some(YUAN, 1, 1),
            "分" => some(TIME, 60, 1),
            "pm" => of(LENGTH, 1, 1).ten(-12),
            // A difference of one degree is a kelvin.
            "celsius" if compound => some(KELVIN, 1, 1),
            "fahrenheit" if compound => some(KELVIN, 5, 9),
            _ => self.row()?.measure,
        }
    }
}

fn find(suits: impl Fn(&Row) -> bool) -> Option<usize> {
    ROWS.iter().position(suits)
}

/// The unit that a word in lower case spells, with its prefix.
pub(super) fn spelt(word: &str) -> Option<Found> {
    if let Some(row) = find(|row| row.words.contains(&word)) {
        return Some(Found { row, ten: 0 });
    }
    // Symbols that are typed in lower case.
    const TYPED: [&str; 6] = ["mm", "cm", "dm", "km", "mg", "kg"];
    if TYPED.contains(&word) || word == "ml" {
        return symbol(word);
    }
    PREFIXES.iter().chain(&SMALL).find_map(|(prefix, ten)| {
        let unit = word
            .strip_prefix(prefix)
            .filter(|unit| !unit.is_empty() && (!unit.is_ascii() || unit.len() > 2))?;
        Some(Found {
            row: find(|row| row.prefixed && row.words.contains(&unit))?,
            ten: *ten,
        })
    })
}

/// The unit that a symbol is, with its prefix.
pub(super) fn symbol(written: &str) -> Option<Found> {
    if let Some(row) = find(|row| row.symbols.contains(&written)) {
        return Some(Found { row, ten: 0 });
    }
    // `fl oz`, `12 pm`, and words.
    if matches!(written, "fl" | "pm" | "am" | "ft") {
        return None;
    }
    let first = written.chars().next()?;
    let ten = LETTERS.iter().find(|(letter, _)| *letter == first)?.1;
    let unit = written
        .get(first.len_utf8()..)
        .filter(|unit| !unit.is_empty())?;
    // Not units: a megamolar, a picotonne, and `TV` as a teravolt.
    let odd = match unit {
        "M" => ten > 0,
        "t" | "u" => ten < 3,
        "C" | "V" | "S" => ten > 9,
        _ => false,
    };
    if odd {
        return None;
    }
    Some(Found {
        row: find(|row| row.prefixed && row.symbols.contains(&unit))?,
        ten,
    })
}
