// SPDX-License-Identifier: Apache-2.0
// Whatever came from a module, a Keep or a host becomes text, never markup.

const UPLOAD = "\u0000upload";
const MARKS = { passed: "good", failed: "bad", undecided: "care", skipped: "", noted: "" };
const VERDICTS = {
  accepted: "Accepted",
  "not-authentic": "Not authentic",
  refused: "Authentic, and refused by the policy",
  undecided: "Cannot be decided",
};
const at = (id) => document.getElementById(id);
const examples = new Map();
let limits = {};
let job = null;
let events = null;
let decoders = {};

function size(bytes) {
  return bytes >= 1 << 20 ? `${bytes / (1 << 20)} MiB` : `${bytes / (1 << 10)} KiB`;
}

function say(id, text, tone = "") {
  at(id).textContent = text;
  at(id).className = tone;
}

async function ask(path, options) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  const { message, hint } = said.error ?? { message: `found status ${answer.status}`, hint: null };
  throw new Error(hint ? `${message} (${hint})` : message);
}

function choose() {
  const example = examples.get(at("choice").value);
  at("upload").hidden = Boolean(example);
  at("config-part").hidden = Boolean(example) && !example["enarx-toml"];
  at("config").readOnly = Boolean(example);
  at("config").value = example?.["enarx-toml"] ?? "";
  at("about").textContent = example?.about ?? "Built for wasm32-wasip1 or as a component of WASI 0.2; no sockets, no directories.";
  at("source").hidden = !example?.source;
  at("source").querySelector("pre").textContent = example?.source ?? "";
}

async function base64(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("cannot read the module: the browser says that it is not there"));
    reader.readAsDataURL(file);
  });
  return url.slice(url.indexOf(",") + 1);
}

async function wanted() {
  const stdin = at("stdin").value;
  const chosen = at("choice").value;
  if (chosen !== UPLOAD) return { example: chosen, stdin };
  const [file] = at("module").files;
  if (!file) throw new Error("cannot run it: found no module, want a .wasm or .wat file");
  if (file.size > limits["module-bytes"])
    throw new Error(`cannot run it: found ${file.size} bytes, want at most ${limits["module-bytes"]}`);
  return { module: await base64(file), "enarx-toml": at("config").value, stdin };
}

function clear() {
  say("verdict", "A Keep is started and judged.");
  say("end", "");
  at("output").replaceChildren();
  at("receipt").hidden = at("findings").hidden = true;
  decoders = { 1: new TextDecoder(), 2: new TextDecoder() };
}

function show(verdict) {
  const accepted = verdict.verdict === "accepted";
  const name = VERDICTS[verdict.verdict] ?? verdict.verdict;
  const words = verdict.emulated ? `${name}, and EMULATED: nothing protects this Keep from its host` : name;
  const what = [verdict.format, verdict.image && `image ${verdict.image}`, `policy ${verdict.policy}`].filter(Boolean).join(", ");
  say("verdict", `${words} (${what})`, !accepted ? "bad" : verdict.emulated ? "care" : "good");
  const rows = verdict.findings.map((finding) => {
    const row = document.createElement("tr");
    for (const [text, tone] of [
      [finding.outcome, MARKS[finding.outcome] ?? ""],
      [`${finding.title} (${finding.id})`, ""],
      [finding.found ?? "", ""],
      [finding.expected ?? "", ""],
    ]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      cell.className = tone;
      row.append(cell);
    }
    return row;
  });
  at("findings").querySelector("summary").textContent = `${rows.length} findings`;
  at("findings").querySelector("tbody").replaceChildren(...rows);
  at("findings").hidden = false;
}

function write(fd, data) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const piece = document.createElement("span");
  piece.className = fd === 2 ? "stderr" : "stdout";
  piece.textContent = decoders[fd].decode(bytes, { stream: true });
  at("output").append(piece);
}

function finish(text, tone) {
  events?.close();
  events = job = null;
  at("run").disabled = false;
  at("stop").disabled = true;
  say("end", text, tone);
}

function happened(event) {
  if (event.kind === "verdict") show(event);
  else if (event.kind === "output") write(event.fd, event.data);
  else if (event.kind === "running") {
    at("receipt").hidden = false;
    at("receipt").querySelector("a").href = `v1/jobs/${job}/receipt`;
  } else if (event.kind === "ended" || event.kind === "failed") {
    const status = event.kind === "ended" ? `ended with status ${event.status}` : "failed";
    const why = [event.trap, event.message, event.hint].filter(Boolean).join("\n");
    if (event.kind === "failed" && at("findings").hidden) say("verdict", "None.");
    finish(`${status}, after ${event.seconds} s${why ? `: ${why}` : ""}`, event.status === 0 ? "good" : "bad");
  }
}

async function run(submitted) {
  submitted.preventDefault();
  at("run").disabled = true;
  clear();
  try {
    const answer = await ask("v1/jobs", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(await wanted()),
    });
    job = (await answer.json()).id;
  } catch (error) {
    say("verdict", "None.");
    finish(error.message, "bad");
    return;
  }
  at("stop").disabled = false;
  events = new EventSource(`v1/jobs/${job}/events`);
  events.onmessage = (message) => happened(JSON.parse(message.data));
  events.onerror = () => {
    // It comes back by itself while the job is there.
    if (events?.readyState === EventSource.CLOSED) finish("the connection to this page's service was lost", "bad");
  };
}

async function stop() {
  try {
    await ask(`v1/jobs/${job}`, { method: "DELETE" });
  } catch (error) {
    say("end", error.message, "bad");
  }
}

async function begin() {
  const here = await (await ask("v1/playground")).json();
  limits = here.limits;
  at("version").textContent = here.version;
  at("emulated").hidden = !here["accepts-emulated"];
  at("limits").textContent =
    `At most ${limits["timeout-s"]} s, ${size(limits["memory-bytes"])} of memory, ${size(limits["output-bytes"])} of output, ` +
    `a module of ${size(limits["module-bytes"])}; no network.`;
  for (const example of here.examples) {
    examples.set(example.name, example);
    at("choice").append(new Option(example.name, example.name));
  }
  at("choice").append(new Option("a module of yours", UPLOAD));
  at("choice").addEventListener("change", choose);
  at("form").addEventListener("submit", run);
  at("stop").addEventListener("click", stop);
  choose();
}

begin().catch((error) => say("end", error.message, "bad"));
