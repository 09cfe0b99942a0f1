// The history page's script: keys, the story of a cell, colours by attention.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const map = document.getElementById("map"), told = document.getElementById("told");
  const hint = told.innerHTML;
  const rows = data.families.map(() => []);
  for (const cell of map.querySelectorAll(".cell")) rows[+cell.dataset.f][+cell.dataset.r] = cell;
  let attention = "", chosen = null;
  const at = cell => [+cell.dataset.f, +cell.dataset.r];
  const state = (f, r) => +data.map[attention][f][r];
  const upright = () => getComputedStyle(rows[0][0]).gridRowStart !== getComputedStyle(rows[0][1]).gridRowStart;
  const make = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const item = (level, label, what, advice) => {
    const li = make("li", "", level);
    li.append(make("span", label, "level"), " " + what);
    if (advice) li.append(make("span", advice, "do"));
    return li;
  };
  const applies = (entry, f, r) => {
    const used = attention || data.default[f][r];
    return !entry.attention || entry.attention === used;
  };
  const label = (word, entry) => word + (entry.attention ? " with " + entry.attention : "");
  const story = (f, r) => {
    const list = make("ul");
    if (data.states[state(f, r)] === "not offered") return list;
    for (const t of data.troubles)
      if (t.f === f && t.breaks && t.r.includes(r) && applies(t, f, r))
        list.append(item("broken", label("broken", t), t.what + " (" + t.when + ")", t.do));
    for (const e of data.events)
      if (e.r === r && e.f.includes(f) && applies(e, f, r))
        list.append(item(e.level, label(e.level, e), e.what, e.do));
    for (const t of data.troubles)
      if (t.f === f && !t.breaks && t.r.includes(r) && applies(t, f, r))
        list.append(item("limit", label("known limit", t), t.what + " (" + t.when + ")", t.do));
    return list;
  };
  const close = back => {
    if (!chosen) return;
    const cell = chosen;
    chosen.removeAttribute("aria-selected");
    chosen = null;
    told.classList.remove("open");
    told.innerHTML = hint;
    if (back) cell.focus();
  };
  const tell = cell => {
    if (chosen) chosen.removeAttribute("aria-selected");
    chosen = cell;
    cell.setAttribute("aria-selected", "true");
    const [f, r] = at(cell), now = state(f, r);
    const list = story(f, r);
    const button = make("button", "×", "close");
    button.type = "button";
    button.setAttribute("aria-label", "Close");
    button.onclick = () => close(true);
    const title = data.families[f] + ", transformers " + data.releases[r]
      + (attention ? ", " + attention : "") + ": " + data.states[now];
    told.replaceChildren(make("h3", title), make("p", data.means[now] + ".", "soft"), list, button);
    if (!list.children.length && data.states[now] === "safe")
      list.replaceWith(make("p", "Nothing that was recorded changed in this release."));
    told.classList.add("open");
    told.scrollTop = 0;
  };
  const move = (cell, to) => {
    cell.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
    to.scrollIntoView({ block: "nearest" });
    if (chosen) tell(to);
  };
  map.addEventListener("click", event => {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    for (const other of map.querySelectorAll('.cell[tabindex="0"]')) other.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
    tell(cell);
  });
  map.addEventListener("keydown", event => {
    const cell = event.target.closest(".cell");
    if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
    const [f, r] = at(cell), last = data.releases.length - 1, down = upright();
    const steps = down
      ? { ArrowUp: [f, r + 1], ArrowDown: [f, r - 1], ArrowLeft: [f - 1, r], ArrowRight: [f + 1, r] }
      : { ArrowUp: [f - 1, r], ArrowDown: [f + 1, r], ArrowLeft: [f, r - 1], ArrowRight: [f, r + 1] };
    steps.Home = [f, down ? last : 0];
    steps.End = [f, down ? 0 : last];
    if (event.key in steps) {
      event.preventDefault();
      const [row, column] = steps[event.key];
      if (rows[row] && rows[row][column]) move(cell, rows[row][column]);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      tell(cell);
    }
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape") close(true); });
  const paint = () => {
    for (const row of rows) for (const cell of row) {
      const [f, r] = at(cell), now = state(f, r), name = data.states[now];
      cell.className = "cell " + name.replace(" ", "-");
      cell.textContent = data.marks[now];
      const text = data.families[f] + ", " + data.releases[r] + ": " + name;
      cell.setAttribute("aria-label", text);
      cell.title = text;
    }
    if (chosen) tell(chosen);
  };
  for (const choice of document.querySelectorAll('input[name="attention"]')) {
    if (choice.checked) attention = choice.value;
    choice.addEventListener("change", () => { attention = choice.value; paint(); });
  }
  paint();
})();
