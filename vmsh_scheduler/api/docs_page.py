"""The page of `/docs`: lists what /openapi.json says, with a form to try each. Loads nothing from anywhere else."""

import base64
import hashlib
from collections.abc import Mapping

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
details { border: 1px solid #8886; border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; }
code, pre, textarea, input { font: 13px/1.4 ui-monospace, monospace; }
pre { overflow: auto; max-height: 24rem; background: #8881; padding: .6rem; white-space: pre-wrap; }
label { display: block; margin: .4rem 0; }
input { width: 24rem; max-width: 100%; }
textarea { width: 100%; min-height: 6rem; box-sizing: border-box; }
td { padding-right: 1rem; vertical-align: top; }
button:focus-visible, input:focus-visible, summary:focus-visible { outline: 2px solid; }
"""

_SCRIPT = """
"use strict";
function make(tag, text, more) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  return Object.assign(node, more || {});
}
function field(into, label, node) {
  const line = make("label", label + " ");
  line.append(node);
  into.append(line);
  return node;
}
function headers() {
  const token = document.getElementById("token").value.trim();
  return token ? { Authorization: "Bearer " + token } : {};
}
function answers(operation) {
  const table = make("table");
  for (const [status, reply] of Object.entries(operation.responses)) {
    const row = make("tr");
    row.append(make("td", status), make("td", reply.description));
    table.append(row);
  }
  return table;
}
function example(spec, operation) {
  const schema = operation.requestBody.content["application/json"].schema;
  const model = spec.components.schemas[schema.$ref.split("/").pop()];
  if (model.title === "ControlRequest") return { action: "pause" };
  return { agentId: "my-agent", walletAddress: "kaspa:", cycleIntervalMs: 15000 };
}
async function send(method, path, inputs, body, out) {
  const extra = headers(), query = new URLSearchParams();
  for (const [parameter, input] of inputs) {
    if (parameter.in === "path") path = path.replace("{" + parameter.name + "}", encodeURIComponent(input.value));
    else if (parameter.in === "query") query.set(parameter.name, input.value);
    else if (input.value) extra[parameter.name] = input.value;
  }
  if (body) extra["Content-Type"] = "application/json";
  const asked = path + (query.size ? "?" + query : "");
  out.textContent = "...";
  try {
    const reply = await fetch(asked, { method, headers: extra, body: body ? body.value : undefined });
    const text = await reply.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* no JSON */ }
    out.textContent = method + " " + asked + "\\n" + reply.status + " " + reply.statusText + "\\n\\n" + shown;
  } catch (error) { out.textContent = String(error); }
}
function show(spec, method, path, operation) {
  const box = make("details"), head = make("summary");
  head.append(make("code", method.toUpperCase() + " " + path), " " + operation.summary);
  box.append(head);
  if (operation["x-scope"]) box.append(make("p", "Scope with access control: " + operation["x-scope"]));
  const inputs = operation.parameters.map(p => [p, field(box, p.name, make("input", "", { name: p.name }))]);
  const body = operation.requestBody && field(box, "Body", make("textarea", "", { name: "body", spellcheck: false }));
  if (body) body.value = JSON.stringify(example(spec, operation), null, 2);
  const go = make("button", "Send", { type: "button" }), out = make("pre", "", { ariaLive: "polite" });
  go.onclick = () => send(method.toUpperCase(), path, inputs, body, out);
  box.append(go, out, answers(operation));
  return box;
}
async function load() {
  const list = document.getElementById("routes");
  const reply = await fetch("/openapi.json", { headers: headers() });
  const spec = await reply.json();
  if (!reply.ok) { list.textContent = "Needs a token: " + spec.error.message; return; }
  document.getElementById("about").textContent = spec.info.title + " " + spec.info.version;
  list.replaceChildren();
  for (const [path, methods] of Object.entries(spec.paths))
    for (const [method, operation] of Object.entries(methods)) list.append(show(spec, method, path, operation));
}
document.getElementById("token").onchange = load;
load();
"""

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vmsh-scheduler API</title>
<style>{_STYLE}</style>
</head>
<body>
<h1 id="about">vmsh-scheduler</h1>
<p>The same for machines: <a href="/openapi.json">openapi.json</a>. A token stays in this page.</p>
<label>Token <input id="token" type="password" autocomplete="off"></label>
<main id="routes">...</main>
<script>{_SCRIPT}</script>
</body>
</html>
""".encode()


def _hash(text: str) -> str:
    """CSP level 3, section 2.3.1: the very bytes between the tags."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
