/** Dark or light. The meeting page is dark until the person chooses otherwise. */
const KEY = "plenum.theme";

export type Theme = "dark" | "light";

export function currentTheme(): Theme {
  return document.documentElement.dataset.theme === "light" ? "light" : "dark";
}

export function setTheme(theme: Theme): void {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(KEY, theme);
}

/** Shows the theme that was chosen last time. */
export function restoreTheme(): void {
  if (localStorage.getItem(KEY) === "light") {
    setTheme("light");
  }
}
