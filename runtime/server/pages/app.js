// The page's frame: which view is shown, colours, the key, and what went wrong.

import { key } from "./api.js";
import { byId } from "./dom.js";
import { poll, watch } from "./live.js";
import { listModels, start } from "./playground.js";

const THEMES = ["auto", "light", "dark"];
const VIEWS = ["live", "playground"];

function showView() {
  const wanted = location.hash.slice(1);
  const shown = VIEWS.includes(wanted) ? wanted : VIEWS[0];
  for (const view of VIEWS) byId(`view-${view}`).hidden = view !== shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${shown === "live" ? "Live" : "Playground"} · AdaptHub`;
}

function showTheme(theme) {
  const button = byId("theme-button");
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = theme[0].toUpperCase() + theme.slice(1);
  button.setAttribute("aria-label", `Colours: ${theme === "auto" ? "automatic" : theme}`);
  localStorage.setItem("adapthub-theme", theme);
}

function nextTheme() {
  const at = THEMES.indexOf(document.documentElement.dataset.theme ?? "auto");
  showTheme(THEMES[(at + 1) % THEMES.length]);
}

function tell(error, live) {
  const notice = byId("notice");
  const state = byId("state");
  const words = error ? (error.status === 401 ? "This server asks for a key: choose Key above." : `No numbers: ${error.message}`) : "";
  if (notice.textContent !== words) notice.textContent = words;
  notice.hidden = !words;
  const who = live ? live.tenant || "local" : error.status === 401 ? "no key" : "unreachable";
  if (state.textContent !== who) state.textContent = who;
  state.classList.toggle("bad", Boolean(error));
}

function askForKey() {
  byId("key").value = key.get();
  byId("key-dialog").returnValue = "";
  byId("key-dialog").showModal();
}

async function keepKey() {
  const answer = byId("key-dialog").returnValue;
  if (!answer) return;
  key.set(answer === "save" ? byId("key").value.trim() : "");
  await Promise.all([poll(tell), listModels()]);
}

showTheme(THEMES.includes(localStorage.getItem("adapthub-theme")) ? localStorage.getItem("adapthub-theme") : "auto");
showView();
addEventListener("hashchange", showView);
byId("theme-button").addEventListener("click", nextTheme);
byId("key-button").addEventListener("click", askForKey);
byId("key-dialog").addEventListener("close", keepKey);
start();
watch(tell);
