"""Texts of every kind that people write, for the check `tokens`.

Differences that no setting removes are recorded in golden/ as known defects (private-use
characters, a final capital sigma, long words); these texts avoid them.
"""

TEXTS = (
    " ",
    "one  two   three ",
    "line\nbreak\ttab\r\nno\u00a0break ideographic\u3000thin\u2009",
    "MixedCase UPPER lower, don't it's o'clock",
    "Größe naïve İstanbul Zażółć Tiếng Việt ﬁne",
    "e\u0301 o\u0308 Z\u0351\u036b marks of their own",
    "一只橘猫趴在窗台上晒太阳。繁體",
    "𠀀𠮷野家 㐀㐁 豈更",
    "猫が縁側で昼寝をしている。コーヒー",
    "고양이가 낮잠을 잔다",
    "Рыжий кот, їжак; η γάτα κοιμάται",
    "שלום world مرحبا السَّلَامُ",
    "बिल्ली खिड़की แมวนอนหลับ",
    "ＡＢＣ　１２３！￥１２８",
    "👍🏽 👩🏾‍🚀 ❤️ 🇨🇳 1️⃣",
    "zero\u200bwidth join\u200der \ufeffmark soft\u00adhyphen",
    "nul\x00 bell\x07 escape\x1b[31m",
    "broken \ufffd text",
    "1,234.56 3/4 50% $9.99 2024-02-29T23:59",
    "https://example.org/a?b=c&d=e#f a@b.c",
    "if (x[0] != 'y') { return {\"k\": 1}; }",
    "…!?“quotes” «guillemets» — § ←→ ∑",
    "[mask] ##ing <|endoftext|> <0x0A>",
)
