// Light or dark as the visitor's system is, until the visitor chooses. Solara includes this file in its page; its own
// setting "auto" leaves out the element that the page is put into.
if (!localStorage.getItem(":solara:theme.variant")) {
  theme.variant = "auto";
  appContainer.classList.toggle("theme--dark", inDarkMode());
  appContainer.classList.toggle("theme--light", !inDarkMode());
  changeThemeCSS(inDarkMode() ? "dark" : "light");
}
