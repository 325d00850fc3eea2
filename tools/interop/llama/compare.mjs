#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Does llama.cpp say with a GGUF file what we say with the checkpoint that it was made of?
//
//   compare.mjs MODULES REFERENCE.jsonl GIGAGPT TOKENIZER MODEL.gguf...
//
// MODULES is the folder that package.json's packages are installed in; REFERENCE has what reference.py,
// or another program of its form, says. Of each file it parses the header with @huggingface/gguf, then
// has llama.cpp
//   - cut the prompts into tokens and put them together again; and texts.json's, as GIGAGPT does with
//     the folder TOKENIZER, if that takes them;
//   - give the logits at each step of our text: the largest difference is the error, which must be
//     within the bound of the file's type;
//   - go on with the prompts by itself, greedily: its text must be ours as long as our best token
//     leads by more than twice that error, so that the error cannot change the choice.
// Prints a line a file; exits with 1 if anything is wrong.
import {spawnSync} from "node:child_process";
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import path from "node:path";
import {pathToFileURL} from "node:url";

// The largest error of logits of some 10 whose spread is 2 to 4. Products have as many bits as the type,
// and with f32 GELU still comes from a table of halves: a relative error of 2^-11 (f32, f16) or 2^-8
// (bf16), and in blocks of 8 bits of 1/254 of the largest value, in weights and in what they are
// multiplied with. It grows a few times on its way through the layers; GELU's approximation, where the
// model has the exact formula, adds 0.004. A wrong weight matrix makes an error of units.
const BOUNDS = {F32: 0.02, F16: 0.02, BF16: 0.15, Q8_0: 0.5};
const TYPES = {0: "F32", 1: "F16", 8: "Q8_0", 30: "BF16"};

const [modules, referenceFile, gigagpt, tokenizer, ...files] = process.argv.slice(2);
if (files.length === 0) {
    console.error("usage: compare.mjs MODULES REFERENCE.jsonl GIGAGPT TOKENIZER MODEL.gguf...");
    process.exit(2);
}
const resolve = createRequire(path.join(path.resolve(modules), "x.js")).resolve;
const load = (name) => import(pathToFileURL(resolve(name)));
const {gguf} = await import(pathToFileURL(
    path.join(path.resolve(modules), "node_modules/@huggingface/gguf/dist/index.mjs")));
const {getLlama} = await load("node-llama-cpp");

const reference = readFileSync(referenceFile, "utf8").trim().split("\n").map((row) => JSON.parse(row));
const texts = JSON.parse(readFileSync(new URL("texts.json", import.meta.url), "utf8")).map((text) => {
    const run = spawnSync(gigagpt, ["tokenizer", "encode", "--tokenizer", tokenizer], {input: text, encoding: "utf8"});
    return {text, tokens: run.status === 0 ? run.stdout.trim().split(/\s+/).map(Number) : null};
}).filter(({tokens}) => tokens !== null);
const problems = [];
const wrong = (file, text) => problems.push(`${path.basename(file)}: ${text}`);
const same = (a, b) => a.length === b.length && a.every((value, i) => value === b[i]);

async function parse(file) {
    const {metadata, tensorInfos} = await gguf(file, {allowLocalFile: true});
    const by = new Map(tensorInfos.map((tensor) => [tensor.name, tensor]));
    const width = Number(metadata["gpt2.embedding_length"]), depth = Number(metadata["gpt2.block_count"]);
    const shape = (name, ...wanted) => {
        const found = by.get(name)?.shape.map(Number) ?? [];
        if (!same(found, wanted)) wrong(file, `${name} is [${found}], not [${wanted}]`);
    };
    if (metadata["general.architecture"] !== "gpt2") wrong(file, "not a gpt2");
    if (tensorInfos.length !== 4 + 12 * depth) wrong(file, `${tensorInfos.length} tensors`);
    shape("token_embd.weight", width, metadata["gpt2.vocab_size"]);
    shape("position_embd.weight", width, metadata["gpt2.context_length"]);
    for (let i = 0; i < depth; ++i) {
        shape(`blk.${i}.attn_qkv.weight`, width, 3 * width);
        shape(`blk.${i}.attn_output.weight`, width, width);
        shape(`blk.${i}.ffn_up.weight`, width, 4 * width);
        shape(`blk.${i}.ffn_down.weight`, 4 * width, width);
    }
    return {type: TYPES[by.get("blk.0.attn_qkv.weight").dtype], positions: metadata["gpt2.context_length"]};
}

// The logits after tokens from the prompt's last on, each as a Map by token.
async function logits(sequence, tokens, first) {
    await sequence.clearHistory();
    const out = await sequence.controlledEvaluate(tokens.map(
        (token, i) => i < first ? token : [token, {generateNext: {logits: true, probabilities: true}}]));
    return out.slice(first).map(({next}) => next.logits);
}

async function greedy(sequence, prompt, count) {
    await sequence.clearHistory();
    const tokens = [];
    // An end of text may be the best token too, and ours goes on then.
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        tokens.push(token);
        if (tokens.length === count) break;
    }
    return tokens;
}

function spread(step) {
    const values = step.map(([, logit]) => logit);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}

async function compare(llama, file) {
    const {type, positions} = await parse(file);
    const model = await llama.loadModel({modelPath: file, checkTensors: true});
    const context = await model.createContext({
        contextSize: positions, batchSize: positions, threads: 1, flashAttention: false,
        experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"
    });
    const sequence = context.getSequence();
    let error = 0, squares = 0, values = 0, sum = 0, steps = 0, equal = 0, certain = 0;
    const bound = BOUNDS[type];
    for (const {text, tokens} of texts) {
        const theirs = model.tokenize(text);
        if (!same(theirs, tokens)) wrong(file, `'${text}' is [${theirs}], not [${tokens}]`);
    }
    for (const {prompt, prompt_tokens: ids, tokens, steps: ours} of reference) {
        const theirs = model.tokenize(prompt);
        if (!same(theirs, ids)) wrong(file, `'${prompt}' is [${theirs}], not [${ids}]`);
        if (model.detokenize(ids) !== prompt) wrong(file, `'${prompt}' comes back as '${model.detokenize(ids)}'`);
        const told = await logits(sequence, [...ids, ...tokens.slice(0, -1)], ids.length - 1);
        ours.forEach((step, i) => {
            sum += spread(step);
            for (const [token, logit] of step) {
                const difference = Math.abs(logit - told[i].get(token));
                if (!(difference <= error)) error = difference;  // NaN too
                squares += difference ** 2;
                ++values;
            }
        });
    }
    for (const {prompt, prompt_tokens: ids, tokens, steps: ours} of reference) {
        const own = await greedy(sequence, ids, tokens.length);
        const unsure = ours.findIndex((step) => step[0][1] - step[1][1] <= 2 * error);
        const sure = unsure < 0 ? tokens.length : unsure;
        let agreed = tokens.findIndex((token, i) => token !== own[i]);
        if (agreed < 0) agreed = tokens.length;
        if (agreed < sure) wrong(file, `after '${prompt}' token ${agreed} is ${own[agreed]}, not ${tokens[agreed]}`);
        steps += tokens.length;
        equal += agreed;
        certain += sure;
    }
    if (!(error <= bound)) wrong(file, `logits differ by ${error}, more than ${bound}`);
    if (certain === 0) wrong(file, "no step was certain: greedy decoding shows nothing");
    console.log(`${path.basename(file)}: ${type}, ${texts.length} texts cut alike, logits differ by ${error.toFixed(5)} at most (bound ${bound}), ` +
        `${Math.sqrt(squares / values).toFixed(5)} rms, of a spread of ${(sum / steps).toFixed(2)}; ` +
        `greedy: ${equal} of ${steps} tokens equal, ${certain} had to be`);
    await context.dispose();
    await model.dispose();
}

const llama = await getLlama({
    gpu: false, build: "never", skipDownload: true, progressLogs: false, maxThreads: 1, logLevel: "error"
});
for (const file of files) await compare(llama, file);
await llama.dispose();
for (const problem of problems) console.error(`WRONG ${problem}`);
process.exit(problems.length > 0 ? 1 : 0);
