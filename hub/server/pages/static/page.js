// What pages gain from script: a choice of colours, buttons that copy, a key to the search. They work without it.

const THEMES = ["auto", "light", "dark"];

function showTheme(button, theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = theme[0].toUpperCase() + theme.slice(1);
  button.setAttribute("aria-label", `Colours: ${theme === "auto" ? "automatic" : theme}`);
}

function offerThemes() {
  const button = document.getElementById("theme");
  const now = () => document.documentElement.dataset.theme ?? "auto";
  showTheme(button, now());
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(now()) + 1) % THEMES.length];
    showTheme(button, next);
    try {
      localStorage.setItem("adapthub-theme", next);
    } catch {
      // it holds for this page
    }
  });
}

function offerCopies() {
  if (!navigator.clipboard) return; // only where the connection is safe
  for (const block of document.querySelectorAll(".snippet pre")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy ${block.getAttribute("aria-label")}`);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    block.after(button);
  }
}

function searchBySlash() {
  const field = document.getElementById("q");
  if (!field) return;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    field.focus();
  });
}

offerThemes();
offerCopies();
searchBySlash();
