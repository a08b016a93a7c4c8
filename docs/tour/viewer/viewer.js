"use strict";
// The viewer's page, over the data of data.js. Text of models is never HTML: it only ever becomes textContent.
const byId = id => document.getElementById(id);
const PAGE = 12, LOOK_MS = 3000;

const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined && text !== "") made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const words = text => text.replaceAll("_", " ");
const number = value => value === null || value === undefined ? "–" : typeof value === "string" ? value : String(Math.round(value * 1000) / 1000);
const signed = value => typeof value === "string" ? value : (value > 0 ? "+" : "") + value.toFixed(2).replace("-", "−");
const percent = value => value === null || value === undefined ? "–" : Math.round(100 * value) + " %";

// ------------------------------------------------------------------ state

const START = {run: "0", view: "", step: "newest", only: "all", order: "recorded", task: "", text: "", beside: "", there: "same", bars: "score"};
let state = {...START}, runs = [], version = "", turn = 0, shown = 0, total = 0;
const read = () => { state = {...START, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1)))}; };
const write = () => {
  const given = Object.entries(state).filter(([name, value]) => value !== START[name]);
  history.replaceState(null, "", "#" + new URLSearchParams(given));
};
const set = change => { state = {...state, ...change}; write(); show(); };

const run = () => runs[state.run];
const view = () => run().views.find(each => each.name === state.view) || run().views[0];
const training = () => view().name === "rollouts";
const numbers = () => view().steps.map(each => each.step);
const step = () => {  // of the training that is shown; null: all
  if (!training() || state.step === "all") return null;
  return numbers().includes(Number(state.step)) ? Number(state.step) : numbers().at(-1);
};

// ------------------------------------------------------------------ filters and numbers

const FILTERS = {
  all: ["all", "every question"],
  malformed: ["malformed", "an answer that does not follow the form"],
  mismatch: ["thought ≠ answer", "the thought leads to another answer than the one given"],
  unfaithful: ["observation ≠ answer", "right answer, false observation; or the reverse"],
  flipped: ["flipped", "right now and wrong before, or the reverse: when the question was asked before, or by the model before"],
  twins: ["twins disagree", "rollouts: the same question about the turned clip is answered mostly right, and this one mostly wrong, or the reverse; evaluation: another option for the clip turned together with its question, or one of both clips alone answered right"],
  cut: ["cut", "an answer that ends at the token limit"],
  split: ["rewards differ", "answers of one question with different rewards"],
  flat: ["no signal", "all answers of a question earn the same: the advantage is 0"],
  differs: ["differs beside", "right here and wrong beside, or the reverse"],
};
const OF_MODELS = {split: "models differ", flat: "models alike"};  // what the filters are called there
const ORDERS = {
  recorded: "as recorded", highest: "highest advantage", lowest: "lowest advantage", spread: "rewards most apart", worst: "lowest reward", best: "highest reward",
};
const share = (name, of) => ({value: each => each[of] ? each[name] / each[of] : null, write: percent});
const NUMBERS = {
  score: ["mean reward", {value: each => each.score, write: number}],
  right: ["right", {value: each => each.right, write: percent}],
  malformed: ["malformed", share("malformed", "answers")],
  mismatch: ["thought ≠ answer", share("mismatch", "answers")],
  unfaithful: ["observation ≠ answer", share("unfaithful", "answers")],
  cut: ["cut", share("cut", "answers")],
  split: ["prompts with signal", share("split", "groups")],
  flipped: ["flipped", share("flipped", "groups")],
};
const together = steps => steps.reduce((sum, each) => {  // of several steps as of one
  const n = sum.answers + each.answers, mean = name => each[name] === null ? sum[name] : ((sum[name] ?? 0) * sum.answers + each[name] * each.answers) / n;
  const added = Object.fromEntries(["groups", "malformed", "mismatch", "unfaithful", "cut", "split", "flipped"].map(name => [name, sum[name] + each[name]]));
  return {...added, score: mean("score"), right: mean("right"), answers: n};
}, {groups: 0, answers: 0, malformed: 0, mismatch: 0, unfaithful: 0, cut: 0, split: 0, flipped: 0, score: null, right: null});

const fill = (select, options, value) => {
  if ([...select.options].map(each => [each.value, each.textContent]).toString() !== options.toString()) select.replaceChildren(...options.map(([each, text]) => new Option(text, each)));
  select.value = value;
};

const showHead = () => {
  fill(byId("run"), runs.map((each, i) => [String(i), each.name]), state.run);
  byId("views").replaceChildren(...run().views.map(each => {
    const button = element("button", each.name === "rollouts" ? "RL rollouts" : each.name.replace(/^set /, "answers: ").replace(/^val/, "answers: val"));
    button.setAttribute("aria-pressed", each.name === view().name);
    button.onclick = () => set({view: each.name, step: "newest", only: "all", order: "recorded", task: ""});
    return button;
  }));
  byId("unread").textContent = run().unread ? `${run().unread} lines could not be read: ${run().first_unread.join("; ")}` : "";
  document.title = `${run().name} · rollouts`;
};

const showSteps = () => {
  byId("training").hidden = !training();
  if (!training()) return;
  const at = step(), known = numbers(), how = NUMBERS[state.bars][1];
  byId("step").textContent = at === null ? `${known.length} steps` : `step ${at}`;
  for (const [id, by] of [["earlier", -1], ["later", 1]]) {
    const next = at === null ? undefined : known[known.indexOf(at) + by];
    byId(id).disabled = next === undefined;
    byId(id).onclick = () => set({step: String(next)});
  }
  byId("newest").setAttribute("aria-pressed", state.step === "newest");
  byId("every").setAttribute("aria-pressed", state.step === "all");
  const values = view().steps.map(how.value), given = values.filter(each => each !== null);
  const low = Math.min(...given), high = Math.max(...given), span = high - low;
  const floor = low <= span ? Math.min(0, low) : low - span / 2;  // small changes of a large number are to be seen, too
  byId("range").textContent = given.length ? `${NUMBERS[state.bars][0]}: ${how.write(low)} to ${how.write(high)}` : "";
  const bars = byId("bars");
  while (bars.childElementCount > known.length) bars.lastChild.remove();
  while (bars.childElementCount < known.length) bars.appendChild(element("button")).append(element("i"));
  view().steps.forEach((each, i) => {
    const button = bars.children[i];
    button.title = `step ${each.step}: ${NUMBERS[state.bars][0]} ${how.write(values[i])}`;
    button.setAttribute("aria-label", button.title);
    button.setAttribute("aria-pressed", at === each.step);
    button.firstChild.style.setProperty("--share", values[i] === null || high === floor ? 0 : (values[i] - floor) / (high - floor));
    button.onclick = () => set({step: String(each.step)});
  });
  const chosen = bars.children[known.indexOf(at)], left = chosen ? chosen.offsetLeft - bars.offsetLeft : 0;
  if (chosen && (left < bars.scrollLeft || left > bars.scrollLeft + bars.clientWidth)) bars.scrollLeft = left - bars.clientWidth / 2;
};

const showNumbers = () => {
  const of = together(view().steps.filter(each => step() === null || each.step === step()));
  const plain = [[of.groups, training() ? "prompts" : "questions"], [of.answers, "answers"]];
  byId("numbers").replaceChildren(...Object.entries(NUMBERS).filter(([name]) => training() || name !== "split").map(([name, [label, how]]) => {
    const button = element("button");
    button.append(element("b", how.write(how.value(of))), element("span", name === "score" && !training() ? "accuracy" : label));
    button.setAttribute("aria-pressed", training() && state.bars === name);
    button.disabled = !training();
    button.title = training() ? "draw this step by step" : "";
    button.onclick = () => set({bars: name});
    return button;
  }), ...plain.map(([value, label]) => {
    const made = element("div");
    made.append(element("b", String(value)), element("span", label));
    return made;
  }));
};

const showControls = () => {
  const orders = Object.entries(ORDERS).filter(([name]) => training() || !["highest", "lowest"].includes(name));
  fill(byId("order"), orders, state.order);
  fill(byId("task"), [["", "any"], ...view().tasks.map(each => [each, words(each)])], state.task);
  byId("task").disabled = byId("text").disabled = !LIVE;
  if (!LIVE) byId("task").title = byId("text").placeholder = "search: by make watch alone";
  if (document.activeElement !== byId("text")) byId("text").value = state.text;
  const others = runs.map((each, i) => [String(i), String(i) === state.run ? "this run" : each.name]);
  const possible = others.filter(([i]) => (training() || i !== state.run) && runs[i].views.some(each => each.name === view().name));
  fill(byId("beside"), [["", "nothing"], ...possible], state.beside);
  byId("there-pick").hidden = !training() || state.beside === "";
  if (training() && state.beside !== "") {
    const own = state.beside === state.run, steps = runs[state.beside].views.find(each => each.name === view().name).steps;
    const first = own ? ["before", "the time before"] : ["same", "the same step"];
    fill(byId("there"), [first, ...steps.map(each => [String(each.step), `step ${each.step}`])], state.there);
    if (byId("there").selectedIndex < 0) byId("there").selectedIndex = 0;
  }
};

const showFilters = counts => {
  byId("filters").replaceChildren(...Object.entries(FILTERS).filter(([name]) => name in counts).map(([name, [label, meaning]]) => {
    const button = element("button", !training() && OF_MODELS[name] || label);
    button.append(element("span", String(counts[name]), "n"));
    button.dataset.only = name;
    button.title = meaning;
    button.disabled = !counts[name] && name !== state.only;
    button.setAttribute("aria-pressed", name === state.only);
    button.onclick = () => set({only: name});
    return button;
  }));
};

// ------------------------------------------------------------------ groups

const COLOURED = {observation: "observation", think: "think", answer: "answer-text", glue: "glue"};
const FLAGS = {mismatch: "thought ≠ answer", cut: "cut at the limit"};

const apart = answer => answer.advantage_perception !== null && answer.advantage_perception !== answer.advantage && !answer.malformed;
const said = answer => {  // the response, its parts coloured; whole and with its tags where it is malformed
  if (answer.malformed || !answer.segments.some(([kind]) => kind in COLOURED)) {
    const raw = element("div", "", "raw");
    answer.segments.forEach(([kind, text]) => raw.append(element("span", text, kind === "tag" ? "tag-text" : COLOURED[kind] || "")));
    return [raw];
  }
  const of = {observation: answer.advantage_perception, think: answer.advantage};
  return answer.segments.filter(([kind]) => kind in COLOURED).map(([kind, text]) => {
    const part = element("div", "", `segment ${COLOURED[kind]}`);
    const label = apart(answer) && kind in of ? `${kind} · advantage ${signed(of[kind])}` : kind;
    part.append(element("span", label), document.createTextNode(text.trim()));
    return part;
  });
};

const advantage = value => {
  const made = element("span", `advantage ${signed(value)}`, "advantage");
  made.style.setProperty("--hue", value > 0 ? "var(--up)" : value < 0 ? "var(--down)" : "var(--base)");
  made.style.setProperty("--share", Math.min(1, Math.abs(value) / 2));
  return made;
};

const answerBox = (group, answer) => {
  const made = element("div", "", "answer" + (answer.right === 1 ? " right" : answer.right === 0 ? " wrong" : ""));
  if (answer.flags.includes(state.only)) made.classList.add("odd");
  const head = element("header"), rollouts = group.view === "rollouts";
  if (!rollouts) head.append(element("b", answer.labels.join(", ") + (answer.control ? ` · ${answer.control}` : "")));
  head.append(element("b", (answer.right === 1 ? "✓ " : answer.right === 0 ? "✗ " : "") + number(answer.score)));
  if (answer.advantage !== null && !apart(answer)) head.append(advantage(answer.advantage));
  if (rollouts) head.append(element("span", (answer.labels.length > 1 ? `×${answer.labels.length} ` : "") + "#" + answer.labels.join(" #"), "times"));
  made.append(head);
  const tags = element("div", "", "tags");
  if (answer.malformed) tags.append(element("span", answer.malformed, "tag bad"));
  answer.flags.filter(flag => flag in FLAGS).forEach(flag => tags.append(element("span", FLAGS[flag], "tag bad")));
  if (answer.flags.includes("unfaithful")) tags.append(element("span", answer.right ? "right, observation false" : "wrong, observation true", "tag bad"));
  if (answer.control) tags.append(element("span", `chooses ${answer.chosen === null ? "nothing" : String.fromCharCode(65 + answer.chosen)}`, "tag"));
  if (tags.childElementCount) made.append(tags);
  made.append(...said(answer));
  if (answer.left_out) made.append(element("div", `… ${answer.left_out} more characters`, "soft"));
  const parts = Object.entries(answer.components).map(([name, value]) => `${words(name)} ${number(value)}`);
  const judged = Object.entries(answer.verdicts).map(([name, verdict]) => `judge: ${name} ${verdict}`);
  const length = answer.tokens === null ? [] : [`${answer.tokens} tokens`];
  made.append(element("footer", [...parts, ...length, ...judged].join(" · ")));
  return made;
};

const side = (group, title) => {
  const made = element("div", "", "side"), head = element("h3"), dots = element("span", "", "dots");
  head.append(element("span", title));
  const plain = group.answers.filter(answer => !answer.control);
  plain.forEach(answer => answer.labels.forEach(() => dots.append(element("i", "", answer.right === 1 ? "right" : answer.right === 0 ? "wrong" : ""))));
  head.append(dots);
  if (group.view === "rollouts") head.append(element("span", `reward ${number(group.score)}` + (group.spread < 1e-6 ? ", no signal" : ""), "soft"));
  if (group.flipped) head.append(element("span", group.flipped > 0 ? "was wrong before" : "was right before", "tag " + (group.flipped > 0 ? "good" : "bad")));
  if (group.twins) head.append(element("span", "twins disagree", "tag bad"));
  const answers = element("div", "", "answers");
  const sorted = group.view === "rollouts" ? [...group.answers].sort((a, b) => b.advantage - a.advantage) : group.answers;
  answers.append(...sorted.map(answer => answerBox(group, answer)));
  made.append(head, answers);
  return made;
};

// Clips play while they are in view, unless the reader's system asks for less motion.
const STILL = matchMedia("(prefers-reduced-motion: reduce)").matches;
const inView = new IntersectionObserver(seen => seen.forEach(({target, isIntersecting}) => {
  if (STILL) target.controls = true;
  else if (isIntersecting) target.play().catch(() => { target.controls = true; });
  else target.pause();
}));

const pictures = group => {
  const made = element("div", "", group.media.length > 1 ? "pictures" : "");
  group.media.forEach(medium => {
    if (medium.missing) return made.append(element("p", medium.missing, "soft"));
    const shows = element(medium.kind === "image" ? "img" : "video");
    if (medium.kind === "image") Object.assign(shows, {alt: "what the question is about", loading: "lazy"});
    else {
      Object.assign(shows, {preload: "metadata", loop: true, muted: true, playsInline: true, tabIndex: 0});
      shows.onmouseenter = shows.onfocus = () => { shows.controls = true; };
      shows.onmouseleave = () => { shows.controls = false; };
      inView.observe(shows);
    }
    shows.src = medium.link;
    made.append(shows);
  });
  return made;
};

const where = group => (group.view === "rollouts" ? `${group.run === Number(state.run) ? "" : runs[group.run].name + ", "}step ${group.step}` : runs[group.run].name);

const card = async group => {
  const made = element("article", "", "group"), asked = element("div", "", "asked"), sides = element("div", "", "sides"), sample = group.sample;
  made.dataset.id = group.id;
  asked.append(pictures(group), element("h2", sample.question, "question"));
  if (sample.options.length) {
    const options = element("div", "", "options");
    sample.options.forEach((text, i) => {
      const letter = String.fromCharCode(65 + i), right = letter === sample.letter;
      options.append(element("span", `${letter}. ${text}${right ? " ✓" : ""}`, right ? "gold" : ""));
    });
    asked.append(options);
  } else asked.append(element("p", `right: ${sample.gold}`, "gold"));
  const motion = sample.motion ? [`shows: ${words(sample.motion)}`] : [];
  asked.append(element("p", [...motion, words(sample.task)].join(" · "), "soft"), element("p", sample.id, "soft id"));
  sides.append(side(group, where(group)));
  if (group.twin) sides.append(await twinOf(group));
  const other = besideOf(group);
  if (other) sides.append(side(await data.group(other.run, other.id), where({...other, view: group.view})));
  else if (state.beside !== "") sides.append(element("div", "not asked there", "side soft"));
  made.append(asked, sides);
  return made;
};

// The same question about the turned clip, with that clip.
const twinOf = async group => {
  const twin = await data.group(group.run, group.twin), turn = twin.sample.turn || group.sample.turn;
  const made = side(twin, `${twin.sample.turn ? "" : "not "}${turn}`);
  made.querySelector("h3").after(pictures(twin), element("p", `right: ${twin.sample.gold}`, "gold"));
  return made;
};

const besideOf = group => {
  if (state.beside === "") return undefined;
  const there = group.elsewhere.filter(each => each.run === Number(state.beside));
  if (group.view !== "rollouts") return there[0];
  const chosen = byId("there").value;
  if (chosen === "before") return there.find(each => each.step < group.step);  // the latest first
  return there.find(each => each.step === (chosen === "same" ? group.step : Number(chosen)));
};

// ------------------------------------------------------------------ a page of them

const trouble = error => Object.assign(byId("trouble"), {hidden: !error, textContent: error ? error.message : ""});

const query = offset => {
  const found = {run: state.run, view: view().name, only: state.only, order: state.order, offset, limit: PAGE};
  if (step() !== null) found.step = step();
  if (!LIVE) return {...found, step: training() ? step() : 0};
  for (const name of ["task", "text"]) if (state[name]) found[name] = state[name];
  if (state.beside !== "") {
    found.beside = state.beside;
    if (/^\d+$/.test(byId("there").value) && training()) found.there = byId("there").value;
  }
  return found;
};

const add = async first => {
  const mine = first ? ++turn : turn;
  try {
    const {counts, groups} = await data.groups(query(first ? 0 : shown));
    const cards = await Promise.all(groups.map(card));
    if (mine !== turn) return;  // something else was asked for since
    if (first) { byId("groups").replaceChildren(); shown = 0; }
    byId("groups").append(...cards);
    shown += cards.length;
    total = counts[state.only] ?? 0;
    showFilters(counts);
    const what = training() ? "prompts" : "questions";
    byId("found").textContent = total ? `${total} ${what}, ${shown} shown` : `no ${what} of this kind`;
    byId("more").hidden = shown >= total || !cards.length;
    trouble(null);
  } catch (error) { if (mine === turn) trouble(error); }
};

const show = () => {
  if (!runs[state.run]) state.run = "0";
  showHead();
  if (!run().views.length) { byId("found").textContent = "Nothing to see yet: no rollouts, and no answers."; return; }
  if (!Object.hasOwn(NUMBERS, state.bars)) state.bars = "score";
  if (state.only === "differs" && state.beside === "") state.only = "all";
  showSteps(); showNumbers(); showControls();
  add(true);
};

const looking = () => runs[state.run]?.views.length ? JSON.stringify([step(), view().steps.find(each => each.step === step())]) : null;
const look = async () => {
  try {
    const found = await data.runs(version);
    byId("live").className = LIVE ? "soft on" : "soft";
    byId("live").textContent = LIVE ? "live" : `written ${found.written}`;
    if (!found.runs) return;  // nothing new
    const before = looking();
    ({version, runs} = found);
    if (before === null || before !== looking()) show();  // what is looked at has changed
    else { showHead(); showSteps(); showNumbers(); }
  } catch (error) {
    byId("live").className = "soft";
    byId("live").textContent = "the server does not answer";
    if (!runs.length) trouble(error);
  }
};

read();
byId("run").onchange = event => set({run: event.target.value, view: view().name, step: "newest"});
for (const name of ["order", "task", "there"]) byId(name).onchange = event => set({[name]: event.target.value});
byId("beside").onchange = event => set({beside: event.target.value, there: event.target.value === state.run ? "before" : "same"});
let typed;
byId("text").oninput = event => { clearTimeout(typed); typed = setTimeout(() => set({text: event.target.value}), 200); };
byId("newest").onclick = () => set({step: "newest"});
byId("every").onclick = () => set({step: "all"});
byId("more").onclick = () => add(false);
addEventListener("hashchange", () => { read(); if (runs.length) show(); });
look().then(() => { if (LIVE) setInterval(look, LOOK_MS); });
