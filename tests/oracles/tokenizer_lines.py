"""The texts whose ids the tokenizer oracle records: many scripts, and whatever splits or merges unusually."""

import unicodedata

# One sentence in many languages and scripts (from the Universal Declaration of Human Rights, article 1, or plain
# phrases).
LANGUAGES = """\
All human beings are born free and equal in dignity and rights.
Alle Menschen sind frei und gleich an Würde und Rechten geboren. Straße, größer, ÜBER!
Tous les êtres humains naissent libres et égaux en dignité et en droits ; n'est-ce pas ?
Todos los seres humanos nacen libres e iguales. ¿Cómo estás? ¡Muy bien!
Tutti gli esseri umani nascono liberi; perché l'università è aperta.
Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Não há exceção.
Alla människor är födda fria och lika i värde och rättigheter.
Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.
Wszyscy ludzie rodzą się wolni i równi pod względem swej godności. Zażółć gęślą jaźń.
Všichni lidé rodí se svobodní a sobě rovní. Příliš žluťoučký kůň úpěl ďábelské ódy.
Minden emberi lény szabadon születik. Árvíztűrő tükörfúrógép.
Toate ființele umane se nasc libere și egale în demnitate și în drepturi.
Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İstanbul, ığdır.
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.
Все люди рождаются свободными и равными в своём достоинстве и правах.
Всі люди народжуються вільними і рівними. Ґанок, їжак, єнот, п'ять.
Всички хора се раждат свободни и равни по достойнство и права.
Бүх хүн тєрєхдєє эрх чєлєєтэй, адилхан нэр тєртэй.
Բոլոր մարդիկ ծնվում են ազատ ու հավասար։
ყველა ადამიანი იბადება თავისუფალი და თანასწორი.
כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. שָׁלוֹם
يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. ١٢٣٤٥ مَرْحَبًا
تمام ابنای بشر آزاد به دنیا می‌آیند. ۱۲۳۴
تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है। १२३४५
সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। ১২৩
ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ।
પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.
மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.
ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.
ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.
മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി ജനിച്ചവരാണ്.
සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත.
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ๑๒๓
ມະນຸດເກີດມາມີສິດເສລີພາບ ແລະ ສະເໝີໜ້າກັນໃນກຽດຕິສັກ.
လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း၊ မွေးဖွားလာသူများ ဖြစ်သည်။
មនុស្សទាំងអស់កើតមកមានសេរីភាព និងភាពស្មើៗគ្នា។
འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་རང་དབང་འདྲ་མཉམ།
የሰው፡ልጅ፡ሁሉ፡ሲወለድ፡ነጻና፡በክብርና፡በመብትም፡እኩልነት፡ያለው፡ነው።
人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。
人人生而自由,在尊嚴和權利上一律平等。「臺灣」《書》
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。カタカナ ﾊﾝｶｸ
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. ㅋㅋㅋ
ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᎶᏱ ᎤᎾᏕᎿ.
ᐃᓅᔪᓕᒫᑦ ᐊᓂᖅᑎᕆᔪᓕᒫᑦ ᐃᓅᓕᖅᑎᑕᐅᕗᑦ ᐊᓯᖏᓐᓂ.
Binadamu wote wamezaliwa huru, hadhi na haki zao ni sawa. Habari gani?
Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba.
ꦱꦧꦼꦤ꧀ꦮꦺꦴꦁ ߒߞߏ 𞤀𞤣𞤤𞤢𞤥 𐤀𐤁𐤂 𓀀𓁐 𒀀𒁀 𐍈𐌰 𝔘𝔫𝔦 ᚠᚢᚦ""".split("\n")

PLAIN = [
    "", "a", " ", "  ", "\n", "Hello, world!", " Hello", "Hello ", "hello  world", "don't I'm you're we've he'll she'd it's",
    "DON'T I'M YOU'RE WE'VE HE'LL SHE'D IT'S", "'s't're've'm'll'd", "' s", "''s", "x'\u017f y'S", "can’t", "'tis 'twas",
    "snake_case camelCase PascalCase kebab-case SCREAMING_SNAKE", "user@example.com", "https://example.org/a?b=c&d=%20#e",
    "int main(int argc, char** argv) {\n\treturn argc > 1 ? 0 : -1; // ok\n}\n", "def f(x):\n    if x:\n        return x**2\n\n",
    "<html><body class=\"a\">&nbsp;&amp;</body></html>", "{\"key\": [1, 2.5, null, true]}", "SELECT * FROM t WHERE a >= 10;",
    "| a | b |\n|---|---|\n| 1 | 2 |", "# Heading\n\n- item\n- item\n\n```c\nx\n```", "$E = mc^2$ \\frac{a}{b}",
    "0", "1", "12", "123", "1234", "12345", "123456789012345678901234567890", " 1", " 12", "  123", "a1b22c333d4444",
    "3.14159", "1,000,000.00", "2024-02-29T23:59:59Z", "+1 (555) 010-9999", "0x1F 1e-10 1/2", "½ ¼ ² ³ ① ⅷ Ⅻ 一二三",
    "٣٤٥٦ ۳۴۵۶ १२३४ ১২৩৪ ๑๒๓๔ １２３４", "10%", "$5.00 €5 £5 ¥500 ₹5", "1st 2nd 3rd", "v1.2.3-rc4", "١٢ 12 १२",
]  # fmt: skip

SPACE = [
    "   ", "    x", "x    ", "x   y", "\t", "\t\t", "\tx", "x\ty", " \t x", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\r", "a\nb",
    "a \nb", "a\n b", "a \n b", "a\n\n\nb", "a \n \n \n b", "a\r\n\r\n  b", "  \n  x", "\n   \n   ", "   \n", "x\n   ", " \n\t\n x",
    "!\n", "!\n\n\nx", "! \n", "...\r\n\r\n", "x !\n y", "\u00a0", "a\u00a0b", "\u00a0\u00a0\u00a0a", "\u2003x\u2003\u2003y",
    "\u3000全角\u3000\u3000空白", "\u2028a\u2029b", "a\u0085b", "\u1680a", "\u180ea", "a\u180e\u180eb", "a\u200bb", "\ufeffa",
    "\x0b\x0ca", " \u2009 a", "\u202f5 %", "  5", "   55", " \n5", "  \u0665", " " * 20 + "x", " " * 100, "\n" * 40, "\t" * 30 + "x",
    " \n" * 12, "x" + " " * 17 + "\n" * 3 + " " * 9 + "7", "\x1c\x1d\x1e\x1fa",
]  # fmt: skip

SYMBOLS = [
    "!", "!!!", "?!?!", "...", "…", "—–-", "“quoted” ‘text’", "«guillemets»", "(){}[]<>", "a+b=c", "!=<=>=", "&&||", "###", "***",
    "----------", "==========", "_____", "~~~", "`code`", "\\n\\t", "/path/to/file.txt", "C:\\dir", "@#$%^&*", "a!b?c", "!a", " !a", "  !",
    "©®™", "→←↑↓⇒", "∀x∈ℝ: ∃y ≠ √x ∑∫∞", "░▒▓█", "─│┌┐└┘", "♠♥♦♣", "☀☁☂", "a\u0301e\u0308", "e\u0301\u0302\u0303", "ﬁ ﬂ ſ ẞ", "ａｂｃ",
    "😀", "😀😀😀", "a😀b", " 😀", "😀 😀", "👍🏽👍🏿", "👨‍👩‍👧‍👦", "🏳️‍🌈 🏴‍☠️", "🇩🇪🇫🇷🇯🇵", "❤️ ❤ ☺️", "1️⃣2️⃣#️⃣", "🧑🏻‍🚀🧑🏾‍🔬", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🤦🏼‍♂️!", "🥲🫠🪿",
    "\x00", "a\x00b", "\x01\x02\x03", "\x1b[31mred\x1b[0m", "\x7f", "\x80\x9f", "a\x08b", "\u200e\u200f\u202a\u202e", "\u2066a\u2069",
    "\ufffd", "\ufffd\ufffda", "\ufffe\uffff", "\U0010ffff", "\ue000\uf8ff", "\U000f0000", "\u0378", "\ufe0f", "\u00ad",
    "a" * 50, "ab" * 40, "A" * 33, "abc" * 300, "ha" * 200, "aaaaab" * 60, "=" * 500, "\u00e9" * 70, "中" * 80, "😂" * 60, "0" * 70,
]  # fmt: skip

# Texts that spell special tokens, as a user may; in `SPECIAL_LINES` they are meant.
LOOK_ALIKES = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_start|>user\nHi<|im_end|>\n", "<|begin_of_text|>", "<|eot_id|>",
    "<|start_header_id|>system<|end_header_id|>\n\n", "<|end_of_text|>", "<|reserved_special_token_7|>", "<repo_name>", "<file_sep>",
    "<|im_end|", "<|im_end |>", "<|IM_END|>", "< |im_end|>", "<|<|im_end|>|>", "<s></s><unk><pad>", "[INST] [/INST]", "<<SYS>>",
    "<0x0A>", "Ġhello", "Ċ", "ĠĠĠ", "▁hello", "âĢĻ", "Ġ", "��", "a<|eot_id|>b", " <|eot_id|> ", "<|python_tag|>print(1)<|eom_id|>",
]  # fmt: skip

SPECIAL_LINES = LOOK_ALIKES + [
    "<|im_start|><|im_start|><|im_end|>", "x<|im_end|>\n<|im_start|>assistant\n", "  <|endoftext|>  ", "12<|endoftext|>34",
    "<|reserved_special_token_1|><|reserved_special_token_10|><|reserved_special_token_100|>", "<|reserved_special_token_1",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<reponame>a<filename>b.py<gh_stars>100+", "<jupyter_start><jupyter_text>t<jupyter_code>c<empty_output>", "no special token at all",
]  # fmt: skip

BLOCKS = [
    (0x20, 0x7F), (0xA1, 0x250), (0x370, 0x530), (0x531, 0x700), (0x900, 0xE00), (0xE00, 0x1100), (0x1200, 0x1800), (0x1E00, 0x2100),
    (0x2100, 0x2C00), (0x3000, 0x3200), (0x4E00, 0x9FA0), (0xA000, 0xAC00), (0xAC00, 0xD7A0), (0xF900, 0xFFE0), (0x10000, 0x10400),
    (0x1F300, 0x1F6D0), (0x1D400, 0x1D800), (0x20000, 0x20100),
]  # fmt: skip
WHITE = [" ", " ", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "   "]


def random_character(draw, block):
    while True:
        c = chr(draw.randrange(*block))
        # The libraries' tables differ in what was assigned lately: run this with Python 3.11 (Unicode 14) or older.
        if unicodedata.category(c) not in ("Cn", "Cs", "Co"):
            return c


def random_text(draw, words):
    """Words of one script or of several, digits, punctuation and all kinds of white space."""
    text = ""
    for _ in range(words):
        kind = draw.random()
        if kind < 0.35:
            text += draw.choice(draw.choice(LANGUAGES).split(" "))
        elif kind < 0.6:
            block = draw.choice(BLOCKS)
            text += "".join(random_character(draw, block) for _ in range(draw.randint(1, 6)))
        elif kind < 0.75:
            text += "".join(random_character(draw, draw.choice(BLOCKS)) for _ in range(draw.randint(1, 4)))
        elif kind < 0.87:
            text += str(draw.randrange(10 ** draw.randint(1, 8)))
        else:
            text += draw.choice(["'s", "'LL", "...", "!", "(", ")", "->", "'", '"', "#", ",", "$", "--"])
        if draw.random() < 0.6:
            text += draw.choice(WHITE)
    return text


def text_lines(draw):
    # The last is long enough for compiled expressions, where short texts are interpreted.
    handmade = LANGUAGES + PLAIN + SPACE + SYMBOLS + LOOK_ALIKES + ["\r\n ".join(LANGUAGES[:30] + SPACE + PLAIN)]
    return handmade + [random_text(draw, draw.randint(1, 8)) for _ in range(60)]


BROKEN = [
    b"\xff", b"\xfe\xff", b"\x80", b"\xbf\xbf", b"a\x80b", b"a \x80 b", b"\xc3", b"caf\xc3", b"caf\xc3 x", b"\xc3(", b"\xe2\x82", b"\xe2\x82 5",
    b"\xe2(\xa1", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80\x80", b"x\xf0\x9f\x98 y", b"\xf0\x28\x8c\xbc", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80",
    b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xed\xbf\xbf", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xff\xfeH\x00i\x00", b"\n\xff\n", b" \xff", b"\xff ", b"\xff\xffabc", b"abc\xff\xff",
    b"12\xff34", b"'\xffs", b"'s\xff", b"\xff's", b"\xffa\xffb\xff", b"\xe4\xb8\xe4\xb8\xad", b"na\xefve r\xe9sum\xe9", b"\xa0x", b"x\x85y",
    b"\x93quoted\x94", b"\xd0\xd0\xd0", b"\x00\xff\x00", b"!!\xff\r\n\r\n",
]  # fmt: skip


def byte_lines(draw):
    lines = list(BROKEN)
    for _ in range(16):
        text = bytearray(random_text(draw, 4).encode())
        for _ in range(draw.randint(1, 4)):
            text[draw.randrange(len(text))] = draw.randrange(256)
        lines.append(bytes(text))
    lines += [bytes(draw.randrange(256) for _ in range(40)) for _ in range(6)]
    return lines
