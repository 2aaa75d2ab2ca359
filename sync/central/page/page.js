"use strict";
// A client of /api/v1. The secret lives in this tab's session storage only; text from outside becomes text nodes, never markup.

const STALE_MS = 15 * 60 * 1000;
const AGAIN_MS = 30 * 1000;
const at = (id) => document.getElementById(id);
const state = { language: "en", secret: "", gateways: [], gatewaysNext: "", certificates: [], certificatesNext: "", alerts: [], orders: [], units: [], searched: false, updated: 0 };

function word(key) {
  return WORDS[state.language][key] ?? key;
}

function make(tag, text = "", type = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (type) made.className = type;
  return made;
}

function mark(kind, icon, text) {
  const made = make("span", text, `mark ${kind}`);
  made.dataset.icon = icon;
  return made;
}

function moment(ms) {
  return ms ? new Date(ms).toLocaleString(state.language) : word("never");
}

class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || `${status}`);
    this.status = status;
    this.hint = problem.hint || "";
  }
}

// A change carries a key of its own; when the answer is lost, the same key makes the repetition harmless.
async function ask(method, path, body) {
  const headers = { Authorization: `Bearer ${state.secret}` };
  if (method !== "GET") {
    headers["Idempotency-Key"] = crypto.randomUUID();
    headers["Content-Type"] = "application/json";
  }
  const options = { method, headers, body: body && JSON.stringify(body), cache: "no-store", redirect: "error" };
  let answer;
  try {
    answer = await fetch(`/api/v1${path}`, options);
  } catch {
    if (method === "GET") throw new Refused(0, {});
    try {
      answer = await fetch(`/api/v1${path}`, options);
    } catch {
      throw new Refused(0, {});
    }
  }
  const content = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, content);
  return content;
}

// What was said last, as a function, so that a change of the language says it again.
let said = () => "";

function say(text, wrong = false) {
  said = text;
  const line = at("state");
  line.className = wrong ? "critical" : "";
  line.dataset.icon = wrong ? "✖" : "";
  line.textContent = text();
}

function complain(error) {
  if (error instanceof Refused && error.status === 401) {
    leave();
    say(() => word("wrong"), true);
  } else if (error instanceof Refused && error.status === 0) {
    const since = state.updated;
    say(() => (since ? `${word("trouble")}. ${word("updated")} ${moment(since)}` : word("trouble")), true);
  } else {
    say(() => (error.hint ? `${error.message} – ${error.hint}` : error.message), true);
  }
}

// What stands on the page.

function paint() {
  document.documentElement.lang = state.language;
  for (const each of document.querySelectorAll("[data-word]")) each.textContent = word(each.dataset.word);
  at("language").textContent = word("language");
  at("language").lang = state.language === "en" ? "de" : "en";
  const chosen = at("reason").value;
  at("reason").replaceChildren(...Object.entries(REASONS[state.language]).map(([value, text]) => new Option(text, value)));
  if (chosen) at("reason").value = chosen;
  at("state").textContent = said();
  paintFound();
  paintAlerts();
  paintGateways();
  paintOrders();
  paintUnits();
  paintCertificates();
}

function paintAlerts() {
  const items = state.alerts.map((alert) => {
    const item = make("li");
    const head = make("p");
    head.append(mark(alert.severity, alert.severity === "critical" ? "✖" : "▲", word(alert.severity)), ` ${alert.title[state.language]}`);
    const tools = make("div", "", "tools");
    const close = make("button", word("close"));
    close.type = "button";
    close.setAttribute("aria-label", `${word("close")}: ${alert.title[state.language]} ${alert.origin}`);
    close.addEventListener("click", () => change("POST", `/alerts/${encodeURIComponent(alert.id)}/close`, {}, "alerts"));
    tools.append(close);
    item.append(head, make("p", alert.do[state.language]), make("p", `${alert.origin || "central"}: ${alert.text}`, "soft"),
      make("p", moment(alert.opened), "soft"), tools);
    return item;
  });
  if (!items.length) {
    const item = make("li");
    item.append(mark("good", "✔", word("none")));
    items.push(item);
  }
  at("alerts").replaceChildren(...items);
}

function condition(gateway) {
  if (gateway.fenced) return mark("critical", "✖", word("fenced"));
  if (gateway.closed) return mark("soft", "■", word("closed"));
  if (Date.now() - gateway.seen > STALE_MS) return mark("warning", "▲", word("silent"));
  if (gateway.waiting > 0) return mark("warning", "↑", word("behind"));
  return mark("good", "✔", word("good"));
}

// On a small screen a row is a card, and each cell says what it is.
function cell(key, text, type = "") {
  const made = make("td", text, type);
  made.dataset.label = word(key);
  return made;
}

function paintGateways() {
  const rows = state.gateways.map((gateway) => {
    const row = make("tr");
    const first = make("td");
    first.append(condition(gateway));
    const name = make("th");
    name.scope = "row";
    name.append(make("div", gateway.name), make("div", gateway.origin, "soft"));
    const version = gateway.applied === gateway.document ? `${gateway.applied}` : `${gateway.applied} ${word("of")} ${gateway.document}`;
    row.append(first, name, cell("group", gateway.group), cell("contact", moment(gateway.seen), "moment"),
      cell("confirmed", gateway.records.toLocaleString(state.language), "number"),
      cell("waiting", gateway.waiting.toLocaleString(state.language), "number"), cell("document", version, "number"));
    return row;
  });
  if (!rows.length) {
    const row = make("tr");
    const only = make("td", word("no_gateways"));
    only.colSpan = 7;
    row.append(only);
    rows.push(row);
  }
  at("gateways").replaceChildren(...rows);
  at("more-gateways").hidden = !state.gatewaysNext;
}

// How far each order is: a bar for the eye, the figures for everybody.
function paintOrders() {
  at("orders-part").hidden = !state.orders.length;
  at("orders").replaceChildren(...state.orders.map((order) => {
    const item = make("li");
    const head = make("p");
    head.append(order.closed ? mark("soft", "■", word("closed")) : mark("good", "▶", word("running")), ` ${order.id} · ${order.scope}`);
    const bar = make("progress");
    bar.max = order.quantity;
    bar.value = order.confirmed;
    bar.setAttribute("aria-label", `${order.id}: ${order.confirmed} ${word("of")} ${order.quantity} ${word("made")}`);
    const counts = Object.entries({ granted: "granted", used: "used", issued: "certified", scrapped: "scrapped", open: "open" })
      .map(([name, key]) => `${order[name].toLocaleString(state.language)} ${word(key)}`).join(" · ");
    item.append(head, bar, make("p", `${order.confirmed.toLocaleString(state.language)} ${word("of")} ${order.quantity.toLocaleString(state.language)} ${word("made")}`),
      make("p", counts, "soft"));
    return item;
  }));
}

function paintUnits() {
  at("units").replaceChildren(...state.units.map((unit) => {
    const item = make("li");
    const head = make("p");
    const good = unit.state === "confirmed";
    head.append(mark(good ? "good" : unit.over ? "critical" : "warning", good ? "✔" : unit.over ? "✖" : "▲", unit.state), ` ${unit.device}`);
    item.append(head, make("p", `${word("unit")} ${unit.unit} · ${word("order")} ${unit.order} · ${unit.station}`, "soft"),
      make("p", `${moment(unit.changed)} · ${unit.origin}`, "soft"));
    return item;
  }));
}

function reasonOf(reason) {
  return REASONS[state.language][reason] ?? reason;
}

function status(certificate) {
  if (certificate.reason === "certificateHold") return mark("warning", "‖", word("certificateHold"));
  if (certificate.state === "revoked") return mark("critical", "✖", `${word("revoked")} (${reasonOf(certificate.reason)})`);
  if (certificate.state === "void") return mark("soft", "○", word("void"));
  if (certificate.not_after < Date.now()) return mark("soft", "○", word("expired"));
  return mark("good", "✔", word("issued"));
}

function paintCertificates() {
  const items = state.certificates.map((certificate) => {
    const item = make("li");
    const head = make("p");
    head.append(status(certificate), ` ${certificate.subject}`);
    item.append(head, make("p", certificate.sans, "soft"),
      make("p", `${certificate.serial} · ${certificate.profile} · ${word("until")} ${moment(certificate.not_after)}`, "soft"),
      make("p", `${word("by")} ${certificate.origin}`, "soft"));
    if (certificate.disputed) {
      const dispute = make("p");
      dispute.append(mark("critical", "✖", word("disputed")), ` ${certificate.disputed}`);
      item.append(dispute);
    }
    const action = certificate.reason === "certificateHold" ? ["revoke", "release"] : certificate.state === "issued" ? ["revoke"] : [];
    const tools = make("div", "", "tools");
    for (const each of action) {
      const button = make("button", word(each), each === "revoke" ? "danger" : "");
      button.type = "button";
      button.setAttribute("aria-label", `${word(each)}: ${certificate.subject}`);
      button.addEventListener("click", () => (each === "revoke" ? revoke(certificate) : release(certificate)));
      tools.append(button);
    }
    if (action.length) item.append(tools);
    return item;
  });
  at("certificates").replaceChildren(...items);
  at("more-certificates").hidden = !state.certificatesNext;
}

// What a person does.

async function load() {
  const [alerts, gateways, orders] = await Promise.all(["/alerts", "/gateways", "/orders"].map((path) => ask("GET", path)));
  state.alerts = alerts.items.sort((one, other) => (one.severity > other.severity) - (one.severity < other.severity) || other.opened - one.opened);
  [state.gateways, state.gatewaysNext] = [gateways.items, gateways.next];
  at("enter").hidden = true;
  for (const id of ["desk", "refresh", "leave"]) at(id).hidden = false;
  state.orders = orders.items.sort((one, other) => Boolean(one.closed) - Boolean(other.closed));
  paintAlerts();
  paintGateways();
  paintOrders();
  state.updated = Date.now();
  say(() => `${word("updated")} ${moment(state.updated)}`);
}

async function search(more) {
  const query = new URLSearchParams({ limit: "20" });
  if (at("text").value.trim()) query.set("text", at("text").value.trim());
  if (at("serial").value.trim()) query.set("serial", at("serial").value.trim());
  const kept = more ? state.certificates : [];
  let next = more ? state.certificatesNext : "";
  let found = [];
  do { // a page may be empty and still have a next one
    if (next) query.set("after", next);
    const page = await ask("GET", `/certificates?${query}`);
    [found, next] = [page.items, page.next];
  } while (!found.length && next);
  [state.certificates, state.certificatesNext] = [[...kept, ...found], next];
  if (!more) state.units = await unitsOf(at("text").value.trim());
  state.searched = true;
  paintUnits();
  paintFound();
  paintCertificates();
}

// What lines made of the device with exactly this serial number.
async function unitsOf(device) {
  if (!device) return [];
  try {
    return (await ask("GET", `/devices/${encodeURIComponent(device)}`)).units;
  } catch (error) {
    if (error.status === 404) return [];
    throw error;
  }
}

function paintFound() {
  const count = state.certificates.length + state.units.length;
  at("found").textContent = !state.searched ? "" : count ? `${count} ${word("found")}` : word("none_found");
}

async function change(method, path, body, focus) {
  try {
    await ask(method, path, body);
    await load();
    if (state.certificates.length) await search(false);
    say(() => word("ok"));
  } catch (error) {
    complain(error);
  }
  at(`${focus}-title`).tabIndex = -1;
  at(`${focus}-title`).focus();
}

function revoke(certificate) {
  at("ask-what").textContent = `${certificate.subject} (${certificate.serial})`;
  const dialog = at("ask");
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "yes") return;
    const body = { reason: at("reason").value, issuer: certificate.issuer };
    change("POST", `/certificates/${certificate.serial}/revoke`, body, "search");
  };
  dialog.showModal();
}

function release(certificate) {
  change("POST", `/certificates/${certificate.serial}/release`, { issuer: certificate.issuer }, "search");
}

function leave() {
  sessionStorage.removeItem("secret");
  Object.assign(state, { secret: "", gateways: [], certificates: [], alerts: [], orders: [], units: [], gatewaysNext: "", certificatesNext: "", searched: false, updated: 0 });
  paint();
  for (const id of ["desk", "refresh", "leave"]) at(id).hidden = true;
  at("enter").hidden = false;
  at("secret").focus();
}

function begin() {
  const wanted = new URLSearchParams(location.search).get("lang") || localStorage.getItem("language") || navigator.language || "en";
  state.language = wanted.toLowerCase().startsWith("de") ? "de" : "en";
  paint();
  at("language").addEventListener("click", () => {
    state.language = state.language === "en" ? "de" : "en";
    localStorage.setItem("language", state.language);
    paint();
  });
  at("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    state.secret = at("secret").value.trim();
    at("secret").value = "";
    load().then(() => {
      sessionStorage.setItem("secret", state.secret);
      at("main").focus();
    }, complain);
  });
  at("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search(false).catch(complain);
  });
  at("refresh").addEventListener("click", () => load().catch(complain));
  at("leave").addEventListener("click", leave);
  at("more-certificates").addEventListener("click", () => search(true).catch(complain));
  at("more-gateways").addEventListener("click", async () => {
    try {
      const page = await ask("GET", `/gateways?after=${encodeURIComponent(state.gatewaysNext)}`);
      [state.gateways, state.gatewaysNext] = [[...state.gateways, ...page.items], page.next];
      paintGateways();
    } catch (error) {
      complain(error);
    }
  });
  state.secret = sessionStorage.getItem("secret") || "";
  if (state.secret) load().catch(complain);
  // Not while somebody works in the list, or what has the focus would go away.
  setInterval(() => {
    if (state.secret && !document.hidden && !at("desk").contains(document.activeElement)) load().catch(complain);
  }, AGAIN_MS);
}

begin();
