// The colours that were chosen, before anything is drawn. Without a choice, or without storage, they are the system's.
try {
  const chosen = localStorage.getItem("adapthub-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // storage is forbidden here
}
